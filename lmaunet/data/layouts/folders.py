"""What lies in a folder of images: volumes, folders of them, and what is left aside."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lmaunet.data import fetch
from lmaunet.data.images.volumes import is_volume, stem
from lmaunet.errors import UserError

LAYOUTS = (
    f"the fetched CT ({fetch.SOURCE_FILE}, from: lmaunet-deploy data fetch)",
    "images/ and labels/ (or img/ and label/, imagesTr/ and labelsTr/) with NIfTI or NRRD files",
    "nnU-Net's raw folder (imagesTr/, labelsTr/, dataset.json)",
    "BraTS (a folder for each case with t1, t1ce, t2, flair, seg)",
    "CASE.nii.gz and CASE_gt.nii.gz beside each other, also in a folder for each patient",
    "TransUNet's Synapse (train_npz/*.npz and test_vol_h5/*.npy.h5)",
    "NAME_train.npz and NAME_val.npz with arrays image, label, patient, frame, slice",
)
DEEPEST = 6
# other programs' images, which are named where they are found, not passed over
UNREAD = (
    ".hdr", ".img", ".img.gz", ".mgz", ".mgh", ".mnc", ".png", ".jpg", ".jpeg", ".tif", ".tiff",
    ".bmp", ".npy", ".npz", ".h5", ".mat", ".dcm", ".ima", ".par", ".rec",
)  # fmt: skip
NAMED = 3


@dataclass(frozen=True)
class Found:
    """A volume in a folder, and the folders between, the outer first."""

    path: Path
    folders: tuple[str, ...] = ()

    @property
    def stem(self) -> str:
        """The file's name without its suffix."""
        return stem(self.path)


def understood() -> str:
    """Return a list of the layouts, for messages."""
    return "one of: " + "; ".join(LAYOUTS)


def hidden(path: Path) -> bool:
    """Tell whether a file is one of the system's: ``._a.nii.gz``, ``.DS_Store``, ``Thumbs.db``."""
    return path.name.startswith(".") or path.name.lower() in ("thumbs.db", "desktop.ini")


def visible(folder: Path) -> list[Path]:
    """Return what a folder holds, sorted, without hidden files."""
    try:
        return sorted(path for path in folder.iterdir() if not hidden(path))
    except OSError as error:
        raise UserError(f"{folder} cannot be read ({error.strerror or error})") from error


def is_folder(path: Path) -> bool:
    """Tell whether a path is a folder; what cannot be looked at is none."""
    try:
        return path.is_dir()
    except OSError:
        return False


def readable_volume(path: Path) -> bool:
    """Tell whether a path is a volume's; what cannot be looked into is none."""
    try:
        return is_volume(path)
    except OSError:
        return False


def find_volumes(folder: Path, deepest: int = DEEPEST) -> tuple[list[Found], list[Path]]:
    """Return the volumes in a folder and in folders in it, and images of formats that are unread.

    A folder of DICOM files is a volume. Folders are looked into ``deepest`` levels down.
    """
    found: list[Found] = []
    unread: list[Path] = []
    for path, folders in _walk(folder, (), deepest):
        if readable_volume(path):
            found.append(Found(path, folders))
        elif path.name.lower().endswith(UNREAD):
            unread.append(path)
    return found, unread


def _walk(
    folder: Path, folders: tuple[str, ...], deepest: int
) -> Iterator[tuple[Path, tuple[str, ...]]]:
    for path in visible(folder):
        if not is_folder(path) or readable_volume(path):
            yield path, folders
        elif len(folders) < deepest:
            yield from _walk(path, (*folders, path.name), deepest)


def named(paths: list[Path]) -> str:
    """Return the first names of some files."""
    return ", ".join(p.name for p in paths[:NAMED]) + (" ..." if len(paths) > NAMED else "")
