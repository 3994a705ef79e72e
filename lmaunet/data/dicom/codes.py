"""SNOMED CT codes of what networks segment, by the names that data sets give it.

The codes and their meanings are those of pydicom's dictionary (DICOM PS3.16); here are only
its keywords, and the names that lead to them.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from typing import Any

ANATOMY, ALTERED = "AnatomicalStructure", "MorphologicallyAbnormalStructure"

_NAMES = {
    ANATOMY: {
        "Spleen": ("spleen",),
        "Kidney": ("kidney", "kidneys"),
        "AdrenalGland": ("adrenal", "adrenals", "adrenal gland", "adrenal glands"),
        "Gallbladder": ("gallbladder", "gall bladder"),
        "Liver": ("liver",),
        "Stomach": ("stomach",),
        "Pancreas": ("pancreas",),
        "Aorta": ("aorta",),
        "InferiorVenaCava": ("inferior vena cava", "ivc", "postcava"),
        "PortalVein": ("portal vein",),
        "Esophagus": ("esophagus", "oesophagus"),
        "Duodenum": ("duodenum",),
        "Colon": ("colon",),
        "SmallIntestine": ("small intestine", "small bowel"),
        "Rectum": ("rectum",),
        "Bladder": ("bladder", "urinary bladder"),
        "Prostate": ("prostate",),
        "Uterus": ("uterus",),
        "Lung": ("lung", "lungs"),
        "Trachea": ("trachea",),
        "Thyroid": ("thyroid", "thyroid gland"),
        "Heart": ("heart",),
        # the muscle that cardiac data sets label is the left ventricle's
        "LeftVentricleMyocardium": ("myocardium", "myo", "left ventricular myocardium"),
        "Brain": ("brain",),
        "SpinalCord": ("spinal cord",),
        "Femur": ("femur",),
        "Bone": ("bone", "bones"),
    },
    ALTERED: {
        "Neoplasm": (
            "tumor", "tumour", "tumors", "tumours", "neoplasm", "cancer", "tumor core",
            "tumour core", "whole tumor", "whole tumour", "enhancing tumor", "enhancing tumour",
        ),
        "Lesion": ("lesion", "lesions"),
        "Edema": ("edema", "oedema", "peritumoral edema", "peritumoral oedema"),
        "Necrosis": ("necrosis", "necrotic core"),
        "Cyst": ("cyst", "cysts"),
    },
}  # fmt: skip
_CHAMBERS = {
    ("left", "ventricle"): "LeftVentricle",
    ("right", "ventricle"): "RightVentricle",
    ("left", "atrium"): "LeftAtrium",
    ("right", "atrium"): "RightAtrium",
}
_SHORT = {
    "lv": "left ventricle", "rv": "right ventricle", "la": "left atrium", "ra": "right atrium",
}  # fmt: skip
_SIDES = {"left": "left", "l": "left", "right": "right", "r": "right"}
_IGNORED = frozenset({"of", "the", "cavity", "blood", "pool"})


@dataclass(frozen=True)
class SegmentCode:
    """What a segment is, as pydicom's codes; ``side`` is None where a name tells none."""

    category: Any
    type: Any
    side: Any = None


def segment_code(name: str) -> SegmentCode:
    """Return the code of a class by its name; that of any anatomical structure where unknown."""
    from pydicom.sr.codedict import codes

    words = [word for word in re.split(r"[^a-z]+", name.lower()) if word]
    words = [part for word in words for part in _SHORT.get(word, word).split()]
    words = [word for word in words if word not in _IGNORED]
    sides = {_SIDES[word] for word in words if word in _SIDES}
    side = sides.pop() if len(sides) == 1 else None
    rest = [word for word in words if word not in _SIDES]
    chamber = _CHAMBERS.get((side or "", rest[-1] if rest else ""))
    if chamber is not None and set(rest[:-1]) <= {"heart", "cardiac"}:
        return SegmentCode(codes.cid7150.AnatomicalStructure, getattr(codes.SCT, chamber))
    names = _by_name()
    if " ".join(words) in names:  # a side may belong to the name
        rest, side = words, None
    category, keyword = names.get(" ".join(rest), (ANATOMY, "AnatomicalStructure"))
    return SegmentCode(
        getattr(codes.cid7150, category),
        getattr(codes.SCT, keyword),
        getattr(codes.SCT, side.capitalize()) if side else None,
    )


@functools.cache
def _by_name() -> dict[str, tuple[str, str]]:
    return {
        name: (category, keyword)
        for category, types in _NAMES.items()
        for keyword, names in types.items()
        for name in names
    }
