"""A report with invented numbers, each of which occurs once, for the tests of the report."""

from __future__ import annotations

import copy
from typing import Any

from lmaunet.artifacts import Agreement, Measurement, Unavailable
from lmaunet.deploy import report

NO_GPU = Unavailable("latency_ms", "an NVIDIA GPU", "this machine has none", "run measure on one")
MADE = {"command": "lmaunet-deploy report", "created": "2030-01-02", "tools": {"torch": "9.9"}}


def measured(quantity: str, value: float) -> Measurement:
    return Measurement(quantity, value, report.UNITS[quantity], "measured")


def target(shift: float, latency: Measurement | Unavailable) -> dict[str, Any]:
    """Return a target whose figures are moved by ``shift`` so that no two targets share one."""
    own = {"liver": 0.931 + shift / 100, "aorta": 0.815 + shift / 100}
    return {
        "size_mb": measured("size_mb", 1.23 + shift),
        "weights_mb": measured("weights_mb", 1.04 + shift),
        "dice": measured("dice", 0.877 + shift / 100),
        "dice_drop_points": measured("dice_drop_points", 0.61 + shift),
        "hd95_mm": measured("hd95_mm", 7.21 + shift),
        "latency_ms": latency,
        "class_drop_points": measured("class_drop_points", 100 * (0.843 - own["aorta"])),
        "worst_class": {
            "class": "aorta", "reference": 0.843, "dice": own["aorta"],
            "relative_loss": (0.843 - own["aorta"]) / 0.843,
        },
        "per_class": own,
        "drop_interval": {"low": 0.3, "high": 0.9, "patients": 6, "level": 0.95},
        "agreement": [Agreement("lowering with torch", 2.5e-5, 0, 4096, 1e-3, True)],
        "files": [{"name": "model.onnx", "bytes": 1_200_456, "ships": True}],
        "arithmetic": "integers of the graph",
        "detail": {},
    }  # fmt: skip


def parts() -> dict[str, Any]:
    """Return the arguments of :func:`lmaunet.deploy.report.assemble`."""
    fpga = target(0.2, Measurement("latency_ms", 10.37, "ms", "estimated"))
    fpga["detail"] = {
        "board": "ZCU104",
        "clock_mhz": 200,
        "clock_status": "assumed",
        "interval_ms": 9.83,
        "resources": {"lut": {"used": 172_310, "available": 230_400}},
        "slowest": [
            {"name": "head", "op": "MVAU", "cycles": 589_824},
            {"name": "lkm1.scan", "op": "SelectiveScan", "cycles": 1_835_008},
        ],
        "something new": {"deep": [1, {"deeper": None}]},
    }
    trt = target(0.1, NO_GPU)
    trt["detail"] = {
        "int8_convolutions": {
            "depthwise": {"int8": 7, "quantized": 8},
            "dense": {"int8": 51, "quantized": 55},
        },
        "precisions": {"INT8": 58},
        "sms": ["86", "89"],
    }
    ort = target(0.0, measured("latency_ms", 61.3))
    ort["detail"] = {
        "convolutions": {"integer_kernels": 61, "float_kernels": 3},
        "latency": {"cpu": "a CPU", "threads": 2, "p90_ms": 64.4},
    }
    return {
        "model": {
            "spec": "edge", "params": 487_654, "macs": 1_623_456_789, "input": [1, 1, 256, 256],
            "weight_bits": {8: 481_200}, "ptq": 0.853, "qat": 0.874, "control": 0.894,
        },
        "data": {
            "name": "example CT", "split": "By blocks of z.", "cases": ["ct"],
            "slices": {"training": 36, "test": 14},
            "label_source": "TotalSegmentator 2.18.0", "synthetic": False,
        },
        "reference": {
            "target": "torch-fp32",
            "dice": {"mean": 0.889, "per_class": {"liver": 0.952, "aorta": 0.843}},
            "hd95_mm": 6.02,
        },
        "targets": {"ort": ort, "trt": trt, "fpga": fpga},
        "made": MADE,
    }  # fmt: skip


def sample(**changes: Any) -> dict[str, Any]:
    """Return the report, with other arguments for ``assemble`` where given."""
    return report.assemble(**(parts() | changes))


def altered(path, value=None, *, delete=False, source=None):
    """Return a report with the value at ``path`` (keys joined by '/') changed or deleted."""
    content = copy.deepcopy(source or sample())
    *outer, last = path.split("/")
    place = content
    for key in outer:
        place = place[int(key) if isinstance(place, list) else key]
    last = int(last) if isinstance(place, list) else last
    if delete:
        del place[last]
    else:
        place[last] = value
    return content


def class_drop(name, before, now):
    """Return the changes of a target whose class ``name`` fell from one Dice to another."""
    loss = (before - now) / before
    return {
        "class_drop_points": measured("class_drop_points", 100 * (before - now)),
        "worst_class": {"class": name, "reference": before, "dice": now, "relative_loss": loss},
    }
