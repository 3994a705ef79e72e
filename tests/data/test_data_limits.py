"""The numbers that decide what is read, refused or noted, a second time.

None of them follows from another: one that is changed is to be changed here too, on purpose.
"""

from __future__ import annotations

import importlib

import pytest

LIMITS = {
    "lmaunet.data.assemble": {"CROP_LOSS_LIMIT": 0.1},
    "lmaunet.data.augment": {
        "ROTATION_DEG": 15.0, "SCALE": (0.85, 1.18), "SHIFT": 0.08, "GAMMA": (0.7, 1.45),
        "CONTRAST": (0.85, 1.18), "BRIGHTNESS": 0.15, "NOISE": 0.15,
    },
    "lmaunet.data.class_map": {
        "LARGEST_CODE": 9_007_199_254_740_992, "LARGEST_LABEL": 65_535, "TOLERANCE": 0.001,
    },
    "lmaunet.data.dataset_json": {"LARGEST_CHANNEL": 63},
    "lmaunet.data.dicom.files": {"LOOK_BELOW": 5_000},
    "lmaunet.data.dicom.frames": {"MOST_FRAMES": 100_000},
    "lmaunet.data.dicom.geometry": {
        "GEOMETRY_TOLERANCE_MM": 0.05, "STEP_TOLERANCE": 0.01, "SMALLEST_TOLERANCE_MM": 0.01,
        "TILT_TOLERANCE_DEGREES": 0.1, "SAME_PLACE": 0.05, "MENTIONED": 0.001,
        "NARROWINGS": 80,
    },
    "lmaunet.data.dicom.header": {"DEFERRED_BYTES": 16_384},
    "lmaunet.data.dicom.pixels": {"LONGEST_PADDING": 3},
    "lmaunet.data.dicom.seg": {
        "LONGEST_TEXT": 64, "SERIES_OFFSET": 1000, "PLACE_TOLERANCE_MM": 0.001,
    },
    "lmaunet.data.division": {"NAMED_CASES": 8},
    "lmaunet.data.fetch": {"ARCHIVE_BYTES": 38_049_988, "DICOM_FILES": 20, "_NEEDED_MB": 250},
    "lmaunet.data.framing": {"SPACING_TOLERANCE": 0.01, "SIDE_DECIMALS": 3},
    "lmaunet.data.images.geometry": {
        "GRID_TOLERANCE_MM": 0.05, "SKEW_TOLERANCE_DEG": 0.1, "SKEW_TOLERANCE_MM": 0.05,
        "SKEW_ROUNDING": 1e-4, "NO_STEP": 1e-12,
    },
    "lmaunet.data.images.image_file": {
        "HEAD_BYTES": 1024, "HEAD_STEP": 16, "CHUNK_BYTES": 1_048_576, "PADDING_BYTES": 4096,
    },
    "lmaunet.data.images.intensity": {
        "SAMPLE": 1_048_576, "DARK": 0.25, "LEAST_DARK": 0.001, "LEAST_DARK_IN_TRAINING": 0.01,
        "LEAST_INSIDE": 0.02, "OF_TRAINING": 0.1, "MOST_BRIGHT": 0.5, "BEYOND_TRAINING": 0.3,
        "NEGATIVE": -200.0, "LEAST_NEGATIVE": 0.01, "SPREAD": 5.0, "UNKNOWN_INSIDE": 0.1,
        "UNKNOWN_BRIGHT": 0.1,
        "QUANTILES": {"q001": 0.001, "q050": 0.05, "q500": 0.5, "q950": 0.95, "q999": 0.999},
    },
    "lmaunet.data.images.masks": {
        "FILES_LOOKED_AT": 20, "HIGHEST_LABEL": 65_535, "WRITTEN_TOLERANCE_MM": 0.01,
        "STALE_SECONDS": 86_400,
    },
    "lmaunet.data.images.metaimage": {"LARGEST_HEADER": 1_048_576, "UNPACKED_AT_ONCE": 65_536},
    "lmaunet.data.images.nifti": {"FORMS_TOLERANCE_MM": 0.1, "QUATERNION_ROUNDING": 1e-4},
    "lmaunet.data.images.nifti_mask": {"LARGEST_NIFTI1_SIDE": 32_767, "GZIP_LEVEL": 4},
    "lmaunet.data.images.nrrd": {"LARGEST_HEADER": 1_048_576},
    "lmaunet.data.images.volumes": {"LARGEST_PIXEL": 1e15},
    "lmaunet.data.inference": {"LARGEST_SIDE": 4096, "SMALLEST_SIDE": 8},
    "lmaunet.data.layouts.beside": {"DEEPEST": 2},
    "lmaunet.data.layouts.cases": {
        "CT_BELOW": -500, "WINDOW_PERCENTILES": (0.5, 99.5), "SAMPLED_VOXELS": 10_000,
        "NARROWEST_WINDOW": 1.0,
    },
    "lmaunet.data.layouts.folders": {"DEEPEST": 6, "NAMED": 3},
    "lmaunet.data.normalization": {
        "ABDOMEN_WINDOW_HU": (-125.0, 275.0), "SMALLEST_WINDOW": 1e-12, "SMALLEST_DEVIATION": 1e-6,
    },
    "lmaunet.data.patients": {"LARGEST_PATTERN": 200, "MOST_REPEATS": 12},
    "lmaunet.data.split": {
        "GAP": 2, "VAL_SLICES": 16, "MARGIN": 4, "MIN_TRAIN_BLOCK": 3, "EMPTY_EVERY": 8,
        "VAL_SHARE": 0.25, "TRAIN_SHARE": 0.5,
    },
    "lmaunet.data.user_json": {"LARGEST_FILE": 67_108_864},
    "lmaunet.data.windows": {
        "OVERLAP": 0.5, "LARGEST_OVERLAP": 0.9, "DEVIATION": 0.125, "LEAST_WEIGHT": 0.001,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", LIMITS)
def test_a_limit_is_changed_on_purpose(name):
    module = importlib.import_module(name)
    assert {limit: getattr(module, limit) for limit in LIMITS[name]} == LIMITS[name]


HOLD_ARRAYS = {
    "lmaunet.data.chosen": ("Chosen",),
    "lmaunet.data.dataset": ("SliceSet", "Dataset"),
    "lmaunet.data.framing": ("AxisOperator",),
    "lmaunet.data.inference": ("PreparedVolume",),
    "lmaunet.data.source": ("Volume", "Source"),
    "lmaunet.data.split": ("BlockSplit",),
}


@pytest.mark.parametrize("name", HOLD_ARRAYS)
def test_what_holds_arrays_equals_itself_alone(name):
    """Whether two arrays are equal is no single answer, so no two of these are compared."""
    module = importlib.import_module(name)
    for kind in (getattr(module, each) for each in HOLD_ARRAYS[name]):
        assert kind.__eq__ is object.__eq__ and kind.__hash__ is object.__hash__
