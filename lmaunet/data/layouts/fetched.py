"""The CT that ``data fetch`` brings: one volume divided by blocks, another patient that trains."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from lmaunet.data import fetch
from lmaunet.data import normalization as norm
from lmaunet.data.class_map import NAMED_MAPS
from lmaunet.data.layouts.cases import pair_volume
from lmaunet.data.source import Source
from lmaunet.errors import UserError


def read_fetched(folder: Path) -> Source:
    """Read the fetched CT; raises :class:`UserError` where it is not complete and unchanged."""
    state = fetch.info(folder)
    if not state["complete"]:
        raise UserError(f"{folder}: {state['problem']}")
    class_map = NAMED_MAPS["totalsegmentator"]
    # The cut-out example_ct_sm is left aside: it shows the same slices as the whole CT.
    label = folder / "example_seg_fast_force_split.nii.gz"
    whole = pair_volume([folder / "example_ct.nii.gz"], label, class_map, "ct")
    label = folder / "example_seg_dicom.nii.gz"
    other = pair_volume([folder / fetch.DICOM_FOLDER], label, class_map, "ct_dicom")
    return Source(
        name=f"CT of {fetch.PACKAGE} {fetch.VERSION}",
        label_source=fetch.LABEL_SOURCE,
        classes=class_map.classes,
        volumes=[dataclasses.replace(whole, role="blocks"), other],
        split="ct_dicom, a second patient, trains.",
        layout="the fetched CT",
        normalization=norm.window(*norm.ABDOMEN_WINDOW_HU),
        channels=("CT",),
        notes=(
            "a score is agreement with TotalSegmentator, not clinical accuracy",
            "the slices that validate are of the same patient as most that train",
        ),
    )
