"""What a TensorRT plan's bytes are, for each network, form of the scan and choice of GPUs.

    python benchmarks/trt_plans.py -o results/trt_plans.json

The networks are untrained and calibrated on the phantom: a plan's size depends on the shapes alone.
What ships is built twice, and both plans must be equal. The forms are ``two_level`` with T unrolled
steps in a chunk, and the exported function itself, an ONNX Scan over single steps, inlined. Nothing
is run: no GPU is needed, and no time here is one of inference.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from accuracy import neutral

from lmaunet.data.loaders import load_phantom
from lmaunet.deploy.console import run_command, table
from lmaunet.errors import Disagreement
from lmaunet.export.lower import lower
from lmaunet.export.network import export_qcdq
from lmaunet.export.reference import read_model
from lmaunet.net.network import LMaUNet
from lmaunet.quant.calibration import calibrate
from lmaunet.quant.network import QuantNetwork
from lmaunet.spec import named_spec
from lmaunet.stage import tool_versions, write_json
from lmaunet.trt import policy
from lmaunet.trt.engine import build_engine
from lmaunet.trt.precision import check_policy, constant_bytes

STEPS = (4, 8, 16)
ALL_SMS = (("SM86",), ("SM86", "SM89"), ("SM80", "SM86", "SM89", "SM120", "SM121"))
FUNCTION, SHIPPED = "function", "two_level-16"
COLUMNS = {
    "plan": "plan", "packed": "packed", "weights": "weights", "padding": "padding",
    "kernels": "kernels", "kernel_count": "count", "rest": "rest",
}  # fmt: skip


def quantized_graph(name: str, folder: Path) -> Path:
    """Return the QCDQ file of an untrained network of a spec, calibrated on the phantom."""
    spec = named_spec(name)
    torch.manual_seed(0)
    images = load_phantom(size=spec.input_size, seed=0).train.images
    model = LMaUNet(spec).train()
    with torch.no_grad():
        for start in range(0, 12, 4):
            model(torch.from_numpy(images[start : start + 4]))
    network = QuantNetwork.from_module(model.eval(), images.shape)
    calibrate(network, images[:8])
    path = folder / f"{name}.qcdq.onnx"
    export_qcdq(network.eval(), torch.from_numpy(images[:1]), path)
    return path


def lowered(model: Any, form: str) -> Any:
    """Return a model with its scans in ``two_level-T`` or as the inlined function."""
    if form == FUNCTION:
        from onnx import inliner

        from lmaunet.export.function import attach

        return inliner.inline_local_functions(attach(model))
    two_level: Any = importlib.import_module("lmaunet.export.lowerings.two_level")
    shipped, two_level.STEPS = two_level.STEPS, int(form.rsplit("-", 1)[1])
    try:
        return lower(model, "two_level")
    finally:
        two_level.STEPS = shipped


def row(spec: str, path: Path, form: str, sms: tuple[str, ...], folder: Path) -> dict[str, Any]:
    """Build one plan, what ships twice, and return what its bytes are."""
    import onnx

    prepared, planned = policy.apply(read_model(path))
    onnx.save(lowered(prepared, form), folder / "network.onnx")
    parts = ("a", "b") if form == SHIPPED else ("a",)
    built = [build_engine(folder / "network.onnx", folder / part, sms) for part in parts]
    if len({engine.plan.read_bytes() for engine in built}) > 1:
        raise Disagreement(f"{spec}, {form}, {'+'.join(sms)}: two builds gave different plans")
    check_policy(built[0].layers, planned)
    stored = constant_bytes(built[0].layers, planned)
    record = built[0].record
    return {
        "spec": spec, "form": form, "sms": list(sms), "weights": stored.weights_total,
        "padding": stored.padding, **record["bytes"], "builds": len(built),
        "build_seconds": [b.record["build_seconds"] for b in built],
        "activation_bytes": record.get("activation_memory_bytes"),
    }  # fmt: skip


def main(arguments: argparse.Namespace) -> int:
    forms = [f"two_level-{steps}" for steps in STEPS] + [FUNCTION]
    rows = []
    with tempfile.TemporaryDirectory() as name:
        for spec in arguments.specs:
            path = quantized_graph(spec, Path(name))
            chosen: list[Any] = [(form, ALL_SMS[0]) for form in forms]
            chosen += [(SHIPPED, sms) for sms in ALL_SMS[1:]]
            for form, sms in chosen:
                with tempfile.TemporaryDirectory() as place:
                    rows.append(row(spec, path, form, sms, Path(place)))
                print(_shown([rows[-1]])[-1], flush=True)
                write(arguments, rows)
    print("\n".join(["", *_shown(rows)]))
    return 0


def write(arguments: argparse.Namespace, rows: list[dict[str, Any]]) -> None:
    """Write the rows so far, where that was asked for."""
    if arguments.output:
        content = {
            "command": neutral("benchmarks/trt_plans.py", sys.argv),
            "date": datetime.date.today().isoformat(),
            "machine": f"{platform.machine()}, {arguments.machine}",
            "tools": tool_versions(),
            "rows": rows,
        }
        write_json(arguments.output, content)


def _shown(rows: list[dict[str, Any]]) -> list[str]:
    header = ["network", "form", "GPUs", *COLUMNS.values(), "build s"]
    cells = [
        [
            r["spec"], r["form"], "+".join(r["sms"]),
            *(str(r[k]) if k == "kernel_count" else f"{r[k] / 1e6:.3f}" for k in COLUMNS),
            f"{min(r['build_seconds']):.1f}",
        ]
        for r in rows
    ]  # fmt: skip
    return table(header, cells)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--specs", nargs="+", default=["demo", "edge", "base"])
    parser.add_argument("--machine", default="two shared cores", help="what it ran on, in words")
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    sys.exit(run_command(lambda: main(arguments)))
