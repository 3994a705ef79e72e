"""Whether networks quantize, export and map to hardware as they did at an older revision.

    python benchmarks/network_equality.py --spec demo --spec edge --spec base \
        -o results/network_equality.json

For each spec a network with seeded weights, and norms that have seen something, is quantized (kept
norms, then folded), calibrated and exported by the code of the old revision, in a process of its
own, and by this one. Compared are the scales and the logits of four images, bit for bit; every
integer, scale and bias of both ONNX files; and the hardware graph of the QONNX file, node by node:
operator, attributes, connections and the bytes of its constants, with its latency on a board that
is large enough. The quantized checkpoint that the old code wrote is loaded by this one, and must
give the same logits once more. The old revision is taken from git; ``make`` is what it runs.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from accuracy import neutral
from onnx import numpy_helper

from lmaunet.deploy.console import run_command, table
from lmaunet.errors import Disagreement, UserError
from lmaunet.net.network import LMaUNet
from lmaunet.spec import NetSpec, named_spec
from lmaunet.stage import tool_versions, write_json

BEFORE_GRAPHS = "905563d"
"""The last revision whose quantized network was written by hand."""

IMAGES = 4
BOARD, CLOCK_MHZ = "U250", 250.0
FOLDERS = ("quant", "export", "cpu", "trt", "fpga")


def seeded(spec: NetSpec) -> tuple[LMaUNet, np.ndarray]:
    """Return a network whose norms have seen something, and images for it."""
    torch.manual_seed(0)
    model = LMaUNet(spec).eval()
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
            module.bias.data.normal_(0, 0.1, generator=generator)
    images = torch.randn(IMAGES, spec.in_channels, *spec.input_size, generator=generator)
    return model, images.numpy()


def make(spec: NetSpec, folder: Path) -> None:
    """Quantize and export with the code that is imported; write what is compared into a folder."""
    from lmaunet.export.network import export_qcdq, export_qonnx
    from lmaunet.net.checkpoint import save_checkpoint
    from lmaunet.quant import network
    from lmaunet.quant.calibration import calibrate

    model, images = seeded(spec)
    extra: dict[str, Any] = {}
    if hasattr(network, "QuantLMaUNet"):
        quantized = network.QuantLMaUNet(model, keep_norms=True)
    else:
        from lmaunet.graph.file import topology_json

        quantized = network.QuantNetwork.from_module(model, images.shape, keep_norms=True)
        extra["graph"] = topology_json(quantized.source)
    calibrate(quantized, images, batch=2)
    kept = logits(quantized, images)
    quantized.fold_norms()
    scales = sorted(
        float(value) for name, value in quantized.state_dict().items() if ".act_quant." in name
    )
    np.savez(folder / "values.npz", kept=kept, folded=logits(quantized, images), scales=scales)
    save_checkpoint(
        folder / "model.pt", spec, quantized, kind="quantized", bits=quantized.bits, scales="free",
        **extra,
    )  # fmt: skip
    image = torch.from_numpy(images[:1])
    export_qcdq(quantized, image, folder / "network.qcdq.onnx")
    export_qonnx(quantized, image, folder / "network.qonnx.onnx")


@torch.no_grad()
def logits(network: Any, images: np.ndarray) -> np.ndarray:
    """Return the logits of a network in evaluation mode."""
    return network.eval()(torch.from_numpy(images)).numpy()


def make_with(revision: str, spec: NetSpec, folder: Path) -> None:
    """Do what :func:`make` does with the code of a revision."""
    with tempfile.TemporaryDirectory() as place:
        packed = subprocess.run(["git", "archive", revision], capture_output=True, check=False)
        if packed.returncode:
            raise UserError(f"git knows no revision {revision}: {packed.stderr.decode().strip()}")
        with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as archive:
            archive.extractall(place, filter="data")
        for name in FOLDERS:
            if (Path(place) / name).is_dir():  # an older revision has less
                (Path(place) / "lmaunet" / name).symlink_to(Path(place) / name)
        words = [sys.executable, __file__, "--make", json.dumps(spec.to_json()), str(folder)]
        before = os.environ.get("PYTHONPATH", "")
        where = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [place, before]))}
        subprocess.run([*words, place], check=True, env=where)


def require_code_of(place: Path) -> None:
    """Raise UserError unless what is imported is the code in a folder."""
    from lmaunet.quant import network

    found = Path(str(network.__file__))
    if place not in found.parents:
        raise UserError(f"{found} was imported, expected code below {place}")


def constants_of(path: Path) -> Counter[tuple[str, str]]:
    """Return every constant that is no shape: its type, and the digest of shape and values."""
    graph = onnx.load(path).graph
    arrays = [numpy_helper.to_array(tensor) for tensor in graph.initializer]
    arrays += [
        numpy_helper.to_array(node.attribute[0].t)
        for node in graph.node
        if node.op_type == "Constant"
    ]
    return Counter(
        (array.dtype.name, hashlib.sha256(str(array.shape).encode() + array.tobytes()).hexdigest())
        for array in arrays
        if array.dtype != np.int64 and array.size and not _is_factors(array)
    )


def _is_factors(array: np.ndarray) -> bool:
    """Return whether an array is a Resize's factors, which another form of it does not have."""
    return array.shape == (4,) and bool((array[:2] == 1).all()) and bool((array >= 1).all())


def hardware_of(path: Path, images: np.ndarray) -> tuple[list[Any], float]:
    """Return the nodes of a QONNX file's hardware graph without names, and its latency in ms."""
    from lmaunet.fpga.agreement.reference import Reference
    from lmaunet.fpga.board.boards import named_board
    from lmaunet.fpga.graph.executor import Executor
    from lmaunet.fpga.graph.lower import lower
    from lmaunet.fpga.sizing.search import Sizing, size
    from lmaunet.fpga.toolchain.assemble import assemble

    reference = Reference(path)
    lowered = lower(path, reference.run(images, reference.scan_inputs()))
    model = assemble(lowered)
    graph = model.model.graph
    constants = {
        tensor.name: hashlib.sha256(numpy_helper.to_array(tensor).tobytes()).hexdigest()
        for tensor in graph.initializer
    }
    numbers: dict[str, int] = {}
    nodes = []
    for node in graph.node:
        attributes = {
            attribute.name: onnx.helper.get_attribute_value(attribute)
            for attribute in node.attribute
            if attribute.name != "Origin"
        }
        nodes.append([
            node.op_type,
            [constants.get(name) or numbers.setdefault(name, len(numbers)) for name in node.input],
            [numbers.setdefault(name, len(numbers)) for name in node.output],
            sorted((key, str(value)) for key, value in attributes.items()),
        ])  # fmt: skip
    sizing = Sizing(Executor(model.model), lowered.graph.shapes)
    return nodes, size(sizing, named_board(BOARD), CLOCK_MHZ).latency_ms


def compare(spec: NetSpec, revision: str, folder: Path) -> dict[str, Any]:
    """Return a row of the result; raises Disagreement where anything differs."""
    from lmaunet.quant.qat import load_quantized

    old, new = folder / "old", folder / "new"
    for place in (old, new):
        place.mkdir(parents=True)
    make_with(revision, spec, old)
    make(spec, new)
    images = seeded(spec)[1]
    with np.load(old / "values.npz") as before, np.load(new / "values.npz") as now:
        for name, what in (("scales", "scale"), ("kept", "logit"), ("folded", "folded logit")):
            require_equal(f"{spec.name}: {what}s", before[name], now[name])
        loaded = logits(load_quantized(old / "model.pt"), images)
        require_equal(f"{spec.name}: logits of the old checkpoint", before["folded"], loaded)
        row: dict[str, Any] = {"spec": spec.name, "input": list(spec.input_size)}
        row |= {"quantizers": len(now["scales"]), "logits": int(now["folded"].size)}
    for name in ("network.qcdq.onnx", "network.qonnx.onnx"):
        before_it, after = constants_of(old / name), constants_of(new / name)
        if before_it != after:
            raise Disagreement(f"{spec.name}: {name} has other integers, scales or biases")
        row[name.split(".")[1]] = sum(after.values())
    (nodes, ms), (own, own_ms) = (
        hardware_of(place / "network.qonnx.onnx", images) for place in (old, new)
    )
    if nodes != own or ms != own_ms:
        raise Disagreement(f"{spec.name}: another hardware graph, {ms} ms before, {own_ms} now")
    return row | {"hardware_nodes": len(own), "latency_ms": round(own_ms, 6)}


def require_equal(what: str, before: np.ndarray, now: np.ndarray) -> None:
    """Raise Disagreement unless two arrays are equal bit for bit."""
    if before.shape != now.shape or before.tobytes() != now.tobytes():
        raise Disagreement(f"{what} differ from those of the old revision")


def main() -> int:
    """Run the command; see the top of this file."""
    if sys.argv[1:2] == ["--make"]:
        require_code_of(Path(sys.argv[4]))
        make(NetSpec.from_json(json.loads(sys.argv[2])), Path(sys.argv[3]))
        return 0
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    add = parser.add_argument
    add("--spec", action="append", help="base, edge or demo; may be given several times")
    add("--input-size", type=int, help="another size than the spec's")
    add("--revision", default=BEFORE_GRAPHS, help="what to compare with")
    add("-o", "--output", type=Path, help="the JSON file to write")
    options = parser.parse_args()
    rows = []
    for name in options.spec or ["demo"]:
        spec = named_spec(name)
        if options.input_size:
            spec = spec.replace(input_size=(options.input_size, options.input_size))
        with tempfile.TemporaryDirectory() as folder:
            rows.append(compare(spec, options.revision, Path(folder)))
        print(f"{name}: equal", flush=True)
    print("\n".join(table(list(rows[0]), [[str(v) for v in row.values()] for row in rows])))
    if options.output:
        write_json(
            options.output,
            {
                "command": neutral("benchmarks/network_equality.py", sys.argv),
                "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
                "revision": options.revision,
                "board": BOARD,
                "clock_mhz": CLOCK_MHZ,
                "tools": tool_versions(),
                "equal": rows,
            },
        )
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
