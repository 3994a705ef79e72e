"""A quantized network as an FPGA design at any input size, simulated to the last cycle.

    python benchmarks/fpga_design.py --model RUN/qat/model.pt --data DATA/acdc_train.npz \
        --input-size 256 --simulate -o results/fpga_edge.json

    python benchmarks/fpga_design.py --spec base --bits 3x3=4 --board U250 -o results/fpga_base.json

The network is convolutional, so that one that was trained on smaller crops serves at another size.
It is exported anew at ``--input-size`` and built as ``build --target fpga`` builds it, on slices of
the training part. With ``--spec`` it is an untrained network in place of a checkpoint, a named spec
or a JSON file with fields of one or of a network of nnU-Net's structure (``nnunet_network.py``),
calibrated on the phantom unless there is ``--data``: cycles do
not depend on the weights, resources hardly, and the accuracy says nothing. ``--beside`` keeps what
a result file says of another design, such as a narrower one that was simulated, under ``beside``.
Prints the figures and writes them as JSON; the build stays in ``--folder``.
``--mutants`` also lets the proof of a small network meet the faults that tests put into its RTL,
its constants and its FIFOs, and counts those that it names. ``fpga_memories.py`` and
``fpga_levels.py`` add what they find of the build with ``--into``.
"""

from __future__ import annotations

import argparse
import datetime
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accuracy import neutral
from nnunet_network import BATCH, NORM_IMAGES, is_nnunet, nnunet, settle, with_weights
from resized import resized
from torch import nn

from lmaunet.deploy.console import run_command
from lmaunet.deploy.export_images import samples_of
from lmaunet.deploy.runs import DataSource
from lmaunet.errors import UserError
from lmaunet.export.network import export_qonnx
from lmaunet.export.scan_metadata import write_scan_formats
from lmaunet.fpga.build import build, check_options
from lmaunet.graph_spec import GraphSpec, NetworkSpec
from lmaunet.net.checkpoint import load_checkpoint
from lmaunet.net.network import LMaUNet
from lmaunet.quant.bits import read_rules, resolve_bits
from lmaunet.quant.calibration import calibrate
from lmaunet.quant.network import QuantNetwork, graph_of
from lmaunet.quant.qat import load_quantized
from lmaunet.quant.scan_formats import read_formats
from lmaunet.spec import NetSpec, named_spec
from lmaunet.stage import read_json, sha256, tool_versions, write_json

MUTANTS = "tests/fpga/simulation/test_proof_mutants.py"


def main(arguments: argparse.Namespace) -> int:
    options = {
        "board": arguments.board, "clock_mhz": arguments.clock_mhz,
        "target_ms": arguments.target_ms, "simulate": arguments.simulate,
    }  # fmt: skip
    check_options(options)
    if arguments.folder and arguments.folder.exists():
        raise UserError(f"--folder {arguments.folder} exists; give one that does not")
    if arguments.mutants and not arguments.simulate:
        raise UserError("--mutants is about the proof; give --simulate too")
    if arguments.images < 1:
        raise UserError(f"--images {arguments.images}; give 1 or more")
    if arguments.model and not arguments.data:
        raise UserError(
            f"--model {arguments.model} without --data; give the data it was trained on"
        )
    if arguments.weights and not (arguments.spec and arguments.data):
        raise UserError(
            f"--weights {arguments.weights} without --spec and --data; give a file of a network of "
            "nnU-Net's structure, and the data it was trained on"
        )
    beside = read_json(arguments.beside) if arguments.beside else None
    size = arguments.input_size
    model = load_quantized(arguments.model) if arguments.model else None
    spec: NetworkSpec
    network: nn.Module | None = None
    if arguments.model:
        spec = load_checkpoint(arguments.model).spec
    else:
        spec, network = spec_of(arguments.spec, size)
    if arguments.weights:
        if network is None or not isinstance(spec, GraphSpec):
            raise UserError(f"--weights for {arguments.spec}; only nnU-Net's structure takes them")
        network = with_weights(network, spec, arguments.weights)
    if size is not None and spec.input_size != (size, size):
        if not isinstance(spec, NetSpec):
            spec.check_size(size, size)  # refuses: a graph is for one size
        else:
            spec = spec.replace(input_size=(size, size))
            model = None if model is None else resized(model, spec)
    data = DataSource(arguments.data, None).load(spec)
    images = samples_of(data)[: arguments.images]
    if model is None:
        model = untrained(spec, arguments.bits, data.train.images, network)
    with tempfile.TemporaryDirectory() as name:
        folder = arguments.folder or Path(name) / "build"
        folder.mkdir(parents=True)
        path = Path(name) / "network.qonnx.onnx"
        export_qonnx(model, torch.from_numpy(images[:1]), path)
        formats = arguments.model.with_name("scan.json") if arguments.model else None
        if formats is not None and formats.exists():
            write_scan_formats(path, [entry.chosen.spec for entry in read_formats(formats)])
        started = time.monotonic()
        built = build(path, images, folder, options, lambda line: say(started, line))
    content = {
        "command": neutral("benchmarks/fpga_design.py", sys.argv),
        "date": datetime.date.today().isoformat(),
        "tools": tool_versions(),
        **(
            {"model_sha256": sha256(arguments.model)}
            if arguments.model
            else {"weights": weights_of(arguments.weights), "seed": 0, "bits": arguments.bits}
        ),
        "spec": spec.to_json(),
        "data": data.name,
        **figures(built.detail, arguments.simulate),
        "agreements": [agreement.to_json() for agreement in built.agreements],
        "seconds": round(time.monotonic() - started),
        **({} if beside is None else {"beside": beside}),
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    write_json(arguments.output, content)
    if arguments.mutants:
        say(started, f"the faults of {MUTANTS}")
        content["proof"] = content["proof"] | {"mutants_caught": mutants_caught()}
        write_json(arguments.output, content)
    shown = ("board", "latency_cycles", "interval_cycles", "latency_ms", "provenance", "fifo_bits")
    print("; ".join(f"{key} {content[key]}" for key in shown if key in content))
    print(
        "; ".join(
            f"{k} {v['used']:g} of {v['available']:g}" for k, v in content["resources"].items()
        )
    )
    print(f"written: {arguments.output}")
    return 0


def weights_of(path: Path | None) -> str:
    """Return what the result file says of weights that ``qat`` did not quantize."""
    if path is None:
        return "untrained"
    return (
        f"of a trained network ({sha256(path)[:16]}), its norms now batch normalizations with the "
        f"statistics of {NORM_IMAGES} training images; not trained further, so that the accuracy "
        "says nothing"
    )


def mutants_caught() -> int:
    """Return how many faults the proof names, each a test; raises :class:`UserError` where not all.

    The tests without a fault are not counted.
    """
    root = Path(__file__).parent.parent
    command = [sys.executable, "-m", "pytest", "-v", "-n", "0", str(root / MUTANTS)]
    result = subprocess.run(
        command, cwd=root, capture_output=True, encoding="utf-8", errors="replace", check=False
    )
    named = re.findall(r"::test_a_.*_is_named.* PASSED", result.stdout)
    if result.returncode or not named:
        told = (result.stdout + result.stderr).strip()[-2000:]
        raise UserError(f"{MUTANTS}: a fault is not named, or the tests do not run:\n{told}")
    return len(named)


def spec_of(text: str, size: int | None = None) -> tuple[NetworkSpec, nn.Module | None]:
    """Return a named spec, or that of a JSON file: all fields, or some and ``base`` for a name.

    Of a file that describes a network of nnU-Net's structure, that network too, for images of
    ``size`` x ``size`` pixels where that is given.

    Raises:
        UserError: for an unknown name, or a file that holds no spec.
    """
    if not text.endswith(".json"):
        return named_spec(text), None
    content = read_json(Path(text))
    if is_nnunet(content):
        return nnunet(content if size is None else content | {"input_size": [size, size]})
    start = named_spec(content.pop("base")).to_json() if "base" in content else {}
    return NetSpec.from_json(start | content), None


def untrained(
    spec: NetworkSpec, bits: str, images: np.ndarray, network: nn.Module | None = None
) -> QuantNetwork:
    """Return a quantized network with random weights, calibrated on images ``(n, C, H, W)``.

    ``network``: that of a spec which is none of our own.
    """
    if network is None:
        assert isinstance(spec, NetSpec)
        torch.manual_seed(0)
        network = LMaUNet(spec)
    settle(network, images)
    graph, weights = graph_of(network, images.shape)
    quantized = QuantNetwork(graph, weights, resolve_bits(graph, read_rules(bits)))
    calibrate(quantized, images[:BATCH])
    return quantized.eval()


def say(started: float, line: str) -> None:
    print(f"{time.monotonic() - started:6.0f} s  {line}", file=sys.stderr, flush=True)


def figures(detail: dict[str, Any], simulated: bool) -> dict[str, Any]:
    """Return what the result file says of a build."""
    found = detail["simulation"] if simulated else {}
    return {
        **{
            key: found[key] for key in ("bit_exact", "images", "proof", "fifo_bits") if key in found
        },
        "board": detail["board"],
        "part": detail["part"],
        "clock_mhz": detail["clock_mhz"],
        "clock_status": detail["clock_status"],
        "latency_cycles": detail["latency_cycles"],
        "interval_cycles": detail["interval_cycles"],
        "latency_ms": detail["latency_ms"],
        "interval_ms": detail["interval_ms"],
        "provenance": "simulated" if simulated else "estimated",
        "resources": {
            name: use | {"provenance": detail["resources_provenance"]}
            for name, use in detail["resources"].items()
        },
        "usable": detail["usable"],
        "fits": detail["fits"],
        "limits": detail["limits"],
        "dsp_bound_interval_cycles": detail["dsp_bound_interval_cycles"],
        "network": detail["network"],
        "nodes": detail["nodes"],
        "slowest": detail["slowest"],
        "largest": detail["largest"],
        "memories": detail["memories"],
        "pipeline": detail["pipeline"],
    }


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    network = parser.add_mutually_exclusive_group(required=True)
    network.add_argument("--model", type=Path, help="a quantized checkpoint, RUN/qat/model.pt")
    network.add_argument("--spec", help="an untrained network: base, edge, demo or a JSON file")
    add("--bits", default="8", help="of an untrained network's weights, such as 3x3=4")
    add("--weights", type=Path, help="a float checkpoint for the --spec's nnU-Net, with any norms")
    add("--data", type=Path, help="NAME_train.npz beside NAME_val.npz, or a folder")
    add("--beside", type=Path, help="a result file of another design to keep in this one's")
    add("--input-size", type=int, help="height and width; the checkpoint's if not given")
    add("--images", type=int, default=2, help="slices for the scans' states and the checks")
    add("--board", default="ZCU104")
    add("--clock-mhz", type=float, default=250.0, help="an assumption")
    add("--target-ms", type=float, help="the latency to meet; the fastest that fits if not given")
    add("--simulate", action="store_true", help="simulate images to the last cycle")
    add("--mutants", action="store_true", help="let the proof meet faults, and count them")
    add("--folder", type=Path, help="where the build stays; it must not exist yet")
    add("-o", "--output", type=Path, default=Path("results/fpga_design.json"))
    return parser.parse_args()


if __name__ == "__main__":
    given = parse()
    sys.exit(run_command(lambda: main(given)))
