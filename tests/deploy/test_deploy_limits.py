"""The numbers that decide what the commands accept, time and show, a second time.

None of them follows from another: one that is changed is to be changed here too, on purpose.
"""

from __future__ import annotations

import importlib

import pytest

LIMITS = {
    "lmaunet.deploy.console": {
        "INTERRUPTED": 130, "BAD_USAGE": 2, "FAULT": 1, "LINE_SECONDS": 15.0,
    },
    "lmaunet.deploy.defaults": {
        "DEMO_QAT_EPOCHS": 2, "DEMO_QAT_RATE": 1e-5, "SMS": ("SM86", "SM89"),
        "PRECISIONS": ("int8", "fp16", "fp32", "int4-weights"), "BOARD": "ZCU104",
        "CLOCK_MHZ": 250.0, "FLOW": "none",
    },
    "lmaunet.deploy.describe": {
        "ARTICLE": {"unet": (7.8e6, 145.2), "unet-large-kernel": (12.4e6, 210.7),
                    "unet-mamba": (9.1e6, 168.5), "base": (11.2e6, 182.3)},
        "SIZES": (512, 256),
    },
    "lmaunet.deploy.doctor": {"MISSING_TOOL": 3},
    "lmaunet.deploy.patients": {"LEAST_PATIENTS": 5, "RESAMPLES": 5000, "LEVEL": 0.95},
    "lmaunet.deploy.pictures": {"TILE_PIXELS": 288, "GRAY_LEVELS": 64, "FILL": 0.42, "EDGE": 0.95},
    "lmaunet.deploy.export_images": {"SAMPLES": 4},
    "lmaunet.deploy.quantizing": {"QAT_SHARE": 0.65, "EXPLAINED": 15},
    "lmaunet.deploy.targets.fpga": {"RUN_BATCH": 4},
    "lmaunet.deploy.targets.openvino": {
        "CHECKED_IMAGES": 2, "TIMED_LOADS": 5, "CODE_SHARE": 0.0005,
    },
    "lmaunet.deploy.targets.ort.building": {
        "CHECKED_IMAGES": 2, "CODE_SHARE": 0.0001, "ROUNDED_BIAS_SHARE": 1.0,
    },
    "lmaunet.deploy.targets.ort.measuring": {"TIMED_LOADS": 5},
    "lmaunet.deploy.targets.trt.forms": {"CHECKED_IMAGES": 2, "CODE_SHARE": 0.0001},
    "lmaunet.deploy.timing": {"WARM_UP_RUNS": 5, "BLOCKS": 6, "BLOCK_RUNS": 5, "SPREAD": 1.2},
    "lmaunet.deploy.view": {"MANY_FILES": 10},
}  # fmt: skip


@pytest.mark.parametrize("name", LIMITS)
def test_a_limit_is_changed_on_purpose(name):
    module = importlib.import_module(name)
    assert {limit: getattr(module, limit) for limit in LIMITS[name]} == LIMITS[name]
