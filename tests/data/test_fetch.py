"""data fetch with archives of our own; real pip where it can be had without a network."""

import errno
import hashlib
import io
import json
import re
import subprocess
import tarfile

import pytest

from lmaunet.data import fetch as module
from lmaunet.data.fetch import fetch, info
from lmaunet.errors import UserError
from lmaunet.stage import read_json

REFERENCE = "totalsegmentator-2.18.0/tests/reference_files/"
DICOM = [f"example_ct_dicom/CT.1.2.{i}" for i in range(20)]


def archive_bytes(leave_out=(), extra=()):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        names = [REFERENCE + n for n in (*module.FILES, *DICOM) if n not in leave_out]
        names += ["totalsegmentator-2.18.0/LICENSE", REFERENCE + "example_mr_sm.nii.gz", *extra]
        for name in names:
            member = tarfile.TarInfo(name)
            content = name.encode()
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        link = tarfile.TarInfo(REFERENCE + "example_ct_dicom/CT.9")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    return stream.getvalue()


@pytest.fixture
def pip(monkeypatch):
    """Replace pip: ``pip(content)`` makes it deliver an archive whose checksum is expected."""
    calls = []

    def install(content, *, expected=None, returncode=0, stderr=""):
        expected = content if expected is None else expected
        monkeypatch.setattr(module, "ARCHIVE_BYTES", len(expected))
        monkeypatch.setattr(module, "ARCHIVE_SHA256", hashlib.sha256(expected).hexdigest())

        def run(command, **options):
            calls.append(command)
            if returncode == 0:
                folder = module.Path(command[command.index("--dest") + 1])
                (folder / module.ARCHIVE_NAME).write_bytes(content)
            return subprocess.CompletedProcess(command, returncode, "", stderr)

        monkeypatch.setattr(module.subprocess, "run", run)
        return calls

    return install


def leftovers(folder):
    return sorted(p.name for p in folder.iterdir()) if folder.exists() else []


def test_fetches_only_the_reference_files_and_says_where_they_come_from(tmp_path, pip):
    calls = pip(archive_bytes())
    (tmp_path / "README.md").write_text("stays")
    said = []
    assert fetch(tmp_path, said.append) == tmp_path
    expected = {*module.FILES, "LICENSE", "SOURCE.json", "README.md", "example_ct_dicom"}
    assert set(leftovers(tmp_path)) == expected
    assert len(list((tmp_path / "example_ct_dicom").iterdir())) == 20
    source = read_json(tmp_path / "SOURCE.json")
    assert (source["package"], source["version"]) == ("totalsegmentator", "2.18.0")
    assert source["licence"] == "Apache-2.0"
    assert source["label_source"] == "TotalSegmentator (a model's output, not a radiologist)"
    for name, digest in source["sha256"].items():
        assert hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() == digest
    assert "--require-hashes" in calls[0] and not any("://" in word for word in calls[0])
    assert info(tmp_path)["complete"]


def test_a_second_fetch_does_nothing_and_a_changed_file_is_fetched_again(tmp_path, pip):
    calls = pip(archive_bytes())
    fetch(tmp_path, lambda line: None)
    fetch(tmp_path, lambda line: None)
    assert len(calls) == 1
    (tmp_path / "example_ct.nii.gz").write_text("changed")
    state = info(tmp_path)
    assert not state["complete"]
    assert state["files"]["example_ct.nii.gz"]["state"] == "changed"
    fetch(tmp_path, lambda line: None)
    assert len(calls) == 2 and info(tmp_path)["complete"]


def test_every_file_is_told_with_its_size_and_state(tmp_path, pip):
    pip(archive_bytes())
    fetch(tmp_path, lambda line: None)
    first, second, third = module.FILES[:3]
    sizes = {name: len(REFERENCE + name) for name in (first, second)}
    assert info(tmp_path)["files"][first] == {"bytes": sizes[first], "state": "ok"}
    (tmp_path / first).unlink()
    (tmp_path / second).write_bytes(b"x" * 7)
    found = info(tmp_path)
    assert found["files"][first] == {"bytes": 0, "state": "missing"}
    assert found["files"][second] == {"bytes": 7, "state": "changed"}
    assert found["files"][third]["state"] == "ok" and not found["complete"]
    assert found["problem"] == (
        f"{first}, {second} missing or changed; run: lmaunet-deploy data fetch"
    )


@pytest.mark.parametrize("digest", ["", "0" * 64, "f" * 65])
def test_what_came_of_another_archive_is_of_another_version(tmp_path, pip, monkeypatch, digest):
    pip(archive_bytes())
    fetch(tmp_path, lambda line: None)
    monkeypatch.setattr(module, "ARCHIVE_SHA256", digest)
    found = info(tmp_path)
    assert not found["complete"]
    assert found["problem"] == "another version was fetched; run: lmaunet-deploy data fetch"


@pytest.mark.parametrize("damage", [lambda b: b[:-1] + b"x", lambda b: b[:-100]])
def test_another_checksum_leaves_nothing_behind(tmp_path, pip, damage):
    good = archive_bytes()
    pip(damage(good), expected=good)
    with pytest.raises(UserError, match=r"has (SHA-256 .* instead of|\d+ bytes instead of)"):
        fetch(tmp_path / "data", lambda line: None)
    assert leftovers(tmp_path / "data") == []


def test_paths_out_of_the_folder_are_never_written(tmp_path, pip):
    evil = ["../evil", f"{REFERENCE}../../../evil", f"{REFERENCE}example_ct_dicom/../evil", "/evil"]
    evil.append(f"{REFERENCE}example_ct_dicom/..")
    pip(archive_bytes(extra=evil))
    fetch(tmp_path / "a" / "data", lambda line: None)
    assert [p.name for p in tmp_path.rglob("*evil*")] == []
    assert not (tmp_path / "a" / "data" / "example_ct_dicom" / "CT.9").exists()


def test_an_archive_that_lacks_a_file_is_refused(tmp_path, pip):
    pip(archive_bytes(leave_out=("example_seg.nii.gz",)))
    with pytest.raises(UserError, match=r"lacks example_seg\.nii\.gz"):
        fetch(tmp_path, lambda line: None)
    assert leftovers(tmp_path) == []


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path, pip, monkeypatch):
    pip(archive_bytes())

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module.shutil, "copyfileobj", full)
    with pytest.raises(UserError, match=r"the disk is full: fetching into .* needs about 250 MB"):
        fetch(tmp_path, lambda line: None)
    assert leftovers(tmp_path) == []


def test_ctrl_c_leaves_nothing(tmp_path, pip, monkeypatch):
    pip(archive_bytes())

    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "_verify", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fetch(tmp_path, lambda line: None)
    assert leftovers(tmp_path) == []


def test_a_folder_that_cannot_be_written_is_said(tmp_path, pip):
    pip(archive_bytes())
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write into .*give another folder"):
        fetch(tmp_path / "file", lambda line: None)


def test_a_python_without_pip_is_told_how_to_get_it(tmp_path, pip):
    pip(archive_bytes(), returncode=1, stderr="/usr/bin/python: No module named pip")
    with pytest.raises(UserError, match=r"has no pip; run: .* -m ensurepip"):
        fetch(tmp_path, lambda line: None)


def test_without_a_network_it_says_how_to_go_on(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "none"))
    with pytest.raises(UserError, match=r"could not download .* --phantom uses a synthetic"):
        fetch(tmp_path / "data", lambda line: None)
    assert leftovers(tmp_path / "data") == []


def test_pip_itself_refuses_another_file_before_running_it(tmp_path, monkeypatch):
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / module.ARCHIVE_NAME).write_bytes(archive_bytes())
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "links"))
    with pytest.raises(UserError, match="has another SHA-256: it is damaged or not the file"):
        fetch(tmp_path / "data", lambda line: None)
    assert leftovers(tmp_path / "data") == []


def test_info_tells_nothing_fetched_from_damaged(tmp_path):
    assert info(tmp_path)["problem"] == "nothing has been fetched; run: lmaunet-deploy data fetch"
    (tmp_path / "SOURCE.json").write_text("{")
    assert info(tmp_path)["problem"].startswith("SOURCE.json is damaged")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", r"\(.*\)"), ("[]", r"\(list indices .*\)"), ("{}", r"\('sha256'\)"),
        ('{"sha256": {}}', r"\('archive_sha256'\)"), ('{"sha256": 3}', r"\('int' .*\)"),
        ('{"sha256": [3]}', r"\(.*\)"), ('{"sha256": ["abc"], "archive_sha256": ""}', r"\(.*\)"),
    ],
)  # fmt: skip
def test_a_damaged_source_file_is_said_with_its_reason(tmp_path, content, said):
    (tmp_path / "SOURCE.json").write_text(content)
    found = info(tmp_path)
    assert not found["complete"] and found["files"] == {} and found["folder"] == str(tmp_path)
    assert re.fullmatch(
        f"SOURCE.json is damaged {said}; run: lmaunet-deploy data fetch", found["problem"]
    )


def test_a_source_file_that_cannot_be_opened_is_said(tmp_path):
    (tmp_path / "SOURCE.json").mkdir()
    assert "SOURCE.json is damaged (" in info(tmp_path)["problem"]


def test_what_is_fetched_is_told_without_its_checksums(tmp_path, pip):
    pip(archive_bytes())
    said = []
    fetch(tmp_path, said.append)
    found = info(tmp_path)
    assert found["package"] == "totalsegmentator" and "sha256" not in found
    assert len(found["files"]) == 26 and found["problem"] == ""
    size = module.ARCHIVE_BYTES / 1e6
    assert said == [
        f"downloading totalsegmentator 2.18.0 ({size:.0f} MB)", "checking its SHA-256",
        "unpacking the reference files", f"{tmp_path} holds 26 files",
    ]  # fmt: skip
    fetch(tmp_path, said.append)
    assert said[4:] == [f"{tmp_path} is complete"]


def test_three_of_the_files_that_are_missing_are_named(tmp_path, pip):
    pip(archive_bytes())
    fetch(tmp_path, lambda line: None)
    for name in module.FILES:
        (tmp_path / name).unlink()
    three = ", ".join(sorted(module.FILES)[:3])
    assert info(tmp_path)["problem"].startswith(f"{three} missing or changed; run:")


def test_a_source_file_that_lists_too_few_files_is_not_complete(tmp_path, pip):
    pip(archive_bytes())
    fetch(tmp_path, lambda line: None)
    source = read_json(tmp_path / "SOURCE.json")
    del source["sha256"][module.FILES[1]]
    (tmp_path / "SOURCE.json").write_text(json.dumps(source))
    found = info(tmp_path)
    assert not found["complete"] and found["problem"].startswith("files missing or changed")


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT, errno.EACCES])
def test_of_errors_of_the_disk_only_a_full_one_is_called_full(error):
    text = module._explain(OSError(error, "words"), "here")
    full = "the disk is full: fetching into here needs about 250 MB there and in"
    start = "cannot write into here: words; give another" if error == errno.EACCES else full
    assert text.startswith(start)
    assert "here: odd; give" in module._explain(OSError("odd"), "here")


@pytest.mark.parametrize(
    ("code", "stderr", "said"),
    [
        (1, "a\nERROR: one\nError: two \nlast", "2.18.0: Error: two; connect to the package index"),
        (1, "first\nlast", "2.18.0: last; connect"), (7, "", "2.18.0: pip exited with 7; connect"),
        (1, "No space left on device", "the disk is full: fetching"),
        (1, "x DO NOT MATCH THE HASHES y", "has another SHA-256: it is damaged"),
    ],
)  # fmt: skip
def test_the_last_error_that_pip_prints_is_the_reason(tmp_path, pip, code, stderr, said):
    pip(archive_bytes(), returncode=code, stderr=stderr)
    with pytest.raises(UserError) as raised:
        fetch(tmp_path, lambda line: None)
    assert said in str(raised.value)


def test_a_damaged_archive_and_a_slice_too_few_are_said(tmp_path, pip, monkeypatch):
    pip(archive_bytes(leave_out=DICOM[:1]))
    with pytest.raises(UserError, match=r"lacks example_ct_dicom \(19 of 20 files\); without it"):
        fetch(tmp_path, lambda line: None)
    for content in (b"no archive", archive_bytes()[:300]):
        pip(content)
        with pytest.raises(UserError, match=r"has a damaged archive \(.*\): it is damaged or not"):
            fetch(tmp_path, lambda line: None)


def test_a_download_of_the_right_size_is_held_to_its_checksum_and_one_of_another_is_not(
    tmp_path, pip
):
    good = archive_bytes()
    digest = hashlib.sha256(b"x" * len(good)).hexdigest()
    pip(b"x" * len(good), expected=good)
    with pytest.raises(UserError, match=f"has SHA-256 {digest} instead of"):
        fetch(tmp_path, lambda line: None)
    pip(good + b"x", expected=good)
    with pytest.raises(UserError, match=f"has {len(good) + 1} bytes instead of {len(good)}: it"):
        fetch(tmp_path, lambda line: None)
