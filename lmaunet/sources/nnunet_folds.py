"""Which cases a fold of nnU-Net's held out, as the folders around its results tell."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from lmaunet.data.dataset_json import DATASET_FILE
from lmaunet.data.division import SPLITS_FILE
from lmaunet.data.nnunet_training import listed_cases
from lmaunet.data.user_json import is_name, read_user_json
from lmaunet.errors import UserError

PREPROCESSED = "nnUNet_preprocessed"
VALIDATION = "validation"
"""The folder of a fold in which a finished training leaves the masks of its validation cases."""

LONGEST_FOLD = 3
BELOW_ALL = 4
"""How many folders a checkpoint lies below the one that holds all of nnU-Net's."""


def held_out(checkpoint: Path, dataset: str) -> tuple[str, ...] | None:
    """Return the cases that a fold validated on; None where nothing tells them.

    ``splits_final.json`` of the data set tells them, in the folder that the environment names as
    ``nnUNet_preprocessed`` or in the one beside nnUNet_results; else, or where it was changed
    since, the masks that the training left in the fold's folder ``validation``.

    Args:
        checkpoint: ``nnUNet_results/DATASET/TRAINER/fold_0/checkpoint_final.pth``.
        dataset: nnU-Net's name of it, such as ``Dataset004_Heart``.
    """
    fold = checkpoint.parent.name.removeprefix("fold_")
    if not fold.isdecimal() or len(fold) > LONGEST_FOLD:
        return None
    said = read_user_json(checkpoint.parents[1] / DATASET_FILE)
    stated = said.get("file_ending") if isinstance(said, dict) else None
    ending = str(stated) if is_name(stated) else ".nii.gz"
    masks = (checkpoint.parent / VALIDATION).glob(f"*{ending}")
    seen = {path.name.removesuffix(ending) for path in masks}
    for folder in _preprocessed(checkpoint):
        found = _listed(folder / dataset / SPLITS_FILE, int(fold))
        if found and seen <= set(found):
            return tuple(found)
    return tuple(sorted(seen)) or None


def _preprocessed(checkpoint: Path) -> Iterator[Path]:
    if os.environ.get(PREPROCESSED):
        yield Path(os.environ[PREPROCESSED])
    above = checkpoint.resolve().parents
    if len(above) > BELOW_ALL:
        yield above[BELOW_ALL] / PREPROCESSED


def _listed(path: Path, fold: int) -> list[str]:
    """Return the cases of a fold; none where the file is not there, or says none."""
    try:
        return listed_cases(path, fold) if path.is_file() else []
    except UserError:
        return []
