"""The real CT that calibrates and demonstrates: fetched, checked and unpacked.

The source distribution of TotalSegmentator carries small CT volumes as reference files of its own
tests, with the segmentations that its networks computed. pip downloads it and compares its SHA-256
before anything of it runs; only the reference files are unpacked.
"""

from __future__ import annotations

import errno
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lmaunet.errors import UserError
from lmaunet.stage import read_json

PACKAGE = "totalsegmentator"
VERSION = "2.18.0"
ARCHIVE_NAME = f"{PACKAGE}-{VERSION}.tar.gz"
ARCHIVE_BYTES = 38_049_988
ARCHIVE_SHA256 = "5d4223ef93973bc36d710869d11e7742ead2c154c72f7f9edcaaadd5b6c4bd03"
LICENCE = "Apache-2.0"
LABEL_SOURCE = "TotalSegmentator (a model's output, not a radiologist)"
DICOM_FOLDER = "example_ct_dicom"
DICOM_FILES = 20
FILES = (
    "example_ct.nii.gz",
    "example_seg_fast_force_split.nii.gz",
    "example_ct_sm.nii.gz",
    "example_seg.nii.gz",
    "example_seg_dicom.nii.gz",
)
LICENCE_FILE = "LICENSE"
SOURCE_FILE = "SOURCE.json"

_REFERENCE = f"{PACKAGE}-{VERSION}/tests/reference_files/"
_DICOM_NAME = re.compile(r"CT[.0-9]+")
_NEEDED_MB = 250
_GO_ON = "without it, --phantom uses a synthetic abdomen instead"


def fetch(folder: Path, progress: Callable[[str], None]) -> Path:
    """Fill ``folder`` with the CT reference files and return it; do nothing where it is filled.

    ``SOURCE.json`` is written last and lists the SHA-256 of every file, so a folder with a
    matching one is complete. Files that are not ours, such as a README, stay.

    Args:
        folder: where the files go, for example ``calibration_data``.
        progress: called with a line on what is being done.

    Raises:
        UserError: where the package index cannot be reached, the checksum differs, or the disk is
            full. Nothing partial is left behind.
    """
    if info(folder)["complete"]:
        progress(f"{folder} is complete")
        return folder
    partial = folder / ".partial"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(partial, ignore_errors=True)
        download, unpacked = partial / "download", partial / "unpacked"
        download.mkdir(parents=True)
        progress(f"downloading {PACKAGE} {VERSION} ({ARCHIVE_BYTES / 1e6:.0f} MB)")
        archive = _download(download)
        progress("checking its SHA-256")
        _verify(archive)
        progress("unpacking the reference files")
        digests = _unpack(archive, unpacked)
        _move_into_place(unpacked, folder, digests)
    except OSError as error:
        raise UserError(_explain(error, folder)) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    progress(f"{folder} holds {len(digests)} files")
    return folder


def info(folder: Path) -> dict[str, Any]:
    """Return what ``folder`` holds: ``complete``, ``problem`` and, where fetched, the source.

    Every file is compared with the SHA-256 in ``SOURCE.json``. ``files`` maps a name to its size
    in ``bytes`` (0 where missing) and its ``state``: ok, missing or changed.
    """
    found: dict[str, Any] = {"folder": str(folder), "complete": False, "problem": "", "files": {}}
    try:
        source = read_json(folder / SOURCE_FILE)
        digests = dict(source["sha256"])
        archive = source["archive_sha256"]
    except FileNotFoundError:
        found["problem"] = "nothing has been fetched; run: lmaunet-deploy data fetch"
        return found
    except (OSError, ValueError, KeyError, TypeError) as error:
        found["problem"] = f"{SOURCE_FILE} is damaged ({error}); run: lmaunet-deploy data fetch"
        return found
    found.update({k: v for k, v in source.items() if k != "sha256"})
    for name, digest in digests.items():
        file = folder / name
        state = "missing"
        if file.is_file():
            state = "ok" if _sha256(file) == digest else "changed"
        size = file.stat().st_size if file.is_file() else 0
        found["files"][name] = {"bytes": size, "state": state}
    bad = [name for name, entry in found["files"].items() if entry["state"] != "ok"]
    if archive != ARCHIVE_SHA256:
        found["problem"] = "another version was fetched; run: lmaunet-deploy data fetch"
    elif bad or not set(FILES) <= set(digests):
        names = ", ".join(bad[:3]) or "files"
        found["problem"] = f"{names} missing or changed; run: lmaunet-deploy data fetch"
    else:
        found["complete"] = True
    return found


def _download(folder: Path) -> Path:
    # Only this package comes as source; what pip needs to read its metadata may come built.
    requirements = folder / "requirements.txt"
    requirements.write_text(
        f"{PACKAGE}=={VERSION} --hash=sha256:{ARCHIVE_SHA256}\n", encoding="utf-8"
    )
    command = [
        sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", PACKAGE,
        "--require-hashes", "--no-input", "--disable-pip-version-check", "--progress-bar", "off",
        "--dest", str(folder), "--requirement", str(requirements),
    ]  # fmt: skip
    done = subprocess.run(
        command, capture_output=True, encoding="utf-8", errors="replace", check=False
    )
    archive = folder / ARCHIVE_NAME
    if done.returncode == 0 and archive.exists():
        return archive
    output = done.stdout + done.stderr
    if "DO NOT MATCH THE HASHES" in output:
        raise UserError(_checksum_message("another SHA-256"))
    if "No space left on device" in output:
        raise OSError(errno.ENOSPC, "No space left on device")
    if "No module named pip" in output:
        raise UserError(f"{sys.executable} has no pip; run: {sys.executable} -m ensurepip")
    errors = [line for line in output.splitlines() if "error" in line.lower()]
    reason = (errors or output.splitlines() or [f"pip exited with {done.returncode}"])[-1].strip()
    raise UserError(
        f"pip could not download {PACKAGE}=={VERSION}: {reason}; connect to the package index "
        f"and run the command again; {_GO_ON}"
    )


def _verify(archive: Path) -> None:
    size = archive.stat().st_size
    if size != ARCHIVE_BYTES:
        raise UserError(_checksum_message(f"{size} bytes instead of {ARCHIVE_BYTES}"))
    digest = _sha256(archive)
    if digest != ARCHIVE_SHA256:
        raise UserError(_checksum_message(f"SHA-256 {digest} instead of {ARCHIVE_SHA256}"))


def _checksum_message(got: str) -> str:
    return (
        f"the download of {PACKAGE}=={VERSION} has {got}: it is damaged or not the file that was "
        f"published, and nothing of it was kept; run the command again, or pip cache purge first; "
        f"{_GO_ON}"
    )


def _unpack(archive: Path, folder: Path) -> dict[str, str]:
    # The names that are written come from our own list and a pattern without a slash, never
    # from a path in the archive, so nothing can land outside the folder.
    (folder / DICOM_FOLDER).mkdir(parents=True)
    digests: dict[str, str] = {}
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                name = _wanted(member.name)
                stream = tar.extractfile(member) if name and member.isfile() else None
                if name and stream is not None:
                    with (folder / name).open("wb") as out:
                        shutil.copyfileobj(stream, out)
                    digests[name] = _sha256(folder / name)
    except (tarfile.TarError, EOFError) as error:
        raise UserError(_checksum_message(f"a damaged archive ({error})")) from error
    slices = sum(name.startswith(DICOM_FOLDER) for name in digests)
    lacking = [name for name in (*FILES, LICENCE_FILE) if name not in digests]
    if lacking or slices != DICOM_FILES:
        what = ", ".join(lacking) or f"{DICOM_FOLDER} ({slices} of {DICOM_FILES} files)"
        raise UserError(f"{ARCHIVE_NAME} lacks {what}; {_GO_ON}")
    return dict(sorted(digests.items()))


def _wanted(member: str) -> str | None:
    if member == f"{PACKAGE}-{VERSION}/{LICENCE_FILE}":
        return LICENCE_FILE
    name = member.removeprefix(_REFERENCE)
    if name in FILES:
        return name
    parent, _, leaf = name.partition("/")
    return name if parent == DICOM_FOLDER and _DICOM_NAME.fullmatch(leaf) else None


def _move_into_place(unpacked: Path, folder: Path, digests: dict[str, str]) -> None:
    source = {
        "package": PACKAGE,
        "version": VERSION,
        "licence": LICENCE,
        "label_source": LABEL_SOURCE,
        "archive": ARCHIVE_NAME,
        "archive_sha256": ARCHIVE_SHA256,
        "sha256": digests,
    }
    (unpacked / SOURCE_FILE).write_text(json.dumps(source, indent=2) + "\n", encoding="utf-8")
    (folder / SOURCE_FILE).unlink(missing_ok=True)
    shutil.rmtree(folder / DICOM_FOLDER, ignore_errors=True)
    for name in (DICOM_FOLDER, *FILES, LICENCE_FILE, SOURCE_FILE):
        (unpacked / name).replace(folder / name)


def _explain(error: OSError, folder: Path) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"the disk is full: fetching into {folder} needs about {_NEEDED_MB} MB there and in "
            "the temporary folder; free some space, or give another folder"
        )
    return f"cannot write into {folder}: {error.strerror or error}; give another folder"


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
