"""Labels beside their images, as in ``patient001/patient001_frame01.nii.gz`` and ``..._gt``."""

from __future__ import annotations

from pathlib import Path

from lmaunet.data.class_map import ClassMap
from lmaunet.data.layouts.cases import Wanted, read_cases
from lmaunet.data.layouts.folders import find_volumes, named
from lmaunet.data.layouts.pairs import LABEL_WORDS, channel_names, match_found
from lmaunet.data.source import Source
from lmaunet.errors import UserError

DEEPEST = 2  # a patient's folder, a session's; a user's home is no data set


def read_beside(
    folder: Path, class_map: ClassMap | None, classes: int | None, seed: int
) -> Source | None:
    """Read images whose labels lie beside them with ``_gt``, ``_seg``, ``_label`` or ``_mask``.

    They lie in the folder or, as the ACDC challenge has them, in folders below, each of a patient.
    Images without a label beside them (the whole film of a heart) are left aside.

    Returns:
        The source, or None where no file is named as a label.

    Raises:
        UserError: for a label without its image.
    """
    found, unread = find_volumes(folder, DEEPEST)
    labels = [f for f in found if LABEL_WORDS.search(f.stem)]
    images = [f for f in found if not LABEL_WORDS.search(f.stem)]
    if not labels:
        return None
    cases, lonely = match_found(images, labels, folder)
    alone = sorted(label.path for label in labels if label.path in lonely)
    if alone:
        raise UserError(
            f"{alone[0]} has no image beside it (a file of that name without the last word); "
            "add it, or remove the label"
        )
    aside = sorted([*lonely, *unread])
    notes = (f"{len(aside)} file(s) without labels are left aside: {named(aside)}",)
    wanted = Wanted(
        name=folder.resolve().name,
        layout="labels beside their images",
        channels=channel_names(cases),
        notes=notes if aside else (),
    )
    return read_cases(folder, cases, wanted, class_map, classes=classes, seed=seed)
