"""Whether a network of somebody's can be captured as a graph, and what the graph is.

    python benchmarks/graph_capture.py --name "nnU-Net PlainConvUNet, 2-D" \
        --module dynamic_network_architectures.architectures.unet:PlainConvUNet \
        --arguments arguments.json --shape 1 1 64 64 -o results/graphs.json

``--module`` is a class or a function that makes the network, ``--arguments`` a JSON file of its
keyword arguments, in which ``"torch.nn.Conv2d"`` is the class. ``--code`` is a folder in which
modules are found first, a checkout for one; ``mamba_ssm`` is ours while the network is imported,
and a package that the code imports and that is not here can be left empty by ``--without``. Weights
are random. The graph is held to the network by ``check_capture``; the row of this name in the
result is replaced.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import importlib.abc
import importlib.machinery
import json
import math
import shlex
import sys
import tempfile
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from accuracy import neutral

from lmaunet.deploy.console import run_command
from lmaunet.errors import UserError
from lmaunet.graph.agreement import BOUND, check_capture
from lmaunet.graph.capture import capture
from lmaunet.graph.layers import layers
from lmaunet.graph.stand_ins import stand_ins
from lmaunet.stage import read_json, tool_versions, write_json


class Empty(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds packages that are not here: whatever is taken from them does nothing."""

    def __init__(self, names: list[str]) -> None:
        self.names = names

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name.partition(".")[0] not in self.names:
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def exec_module(self, module: ModuleType) -> None:
        def given(name: str) -> Any:
            if name.startswith("__"):
                raise AttributeError(name)
            return torch.nn.Identity

        module.__getattr__ = given  # type: ignore[method-assign]


def resolved(value: Any) -> Any:
    """Return arguments with the classes of torch.nn in the place of their names."""
    if isinstance(value, dict):
        return {key: resolved(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [resolved(entry) for entry in value]
    if isinstance(value, str) and value.startswith("torch.nn."):
        return getattr(torch.nn, value.removeprefix("torch.nn."))
    return value


def make(target: str, arguments: dict[str, Any]) -> torch.nn.Module:
    """Return the network of ``package.module:name``; raises UserError where there is none."""
    module, _, name = target.partition(":")
    with stand_ins():
        try:
            maker = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError) as error:
            raise UserError(
                f"--module {target}: {error}; give PACKAGE.MODULE:NAME, and --code for its folder"
            ) from error
    torch.manual_seed(0)
    return maker(**resolved(arguments))


def row_of(network: torch.nn.Module, shape: tuple[int, ...]) -> dict[str, Any]:
    """Return the figures of a capture; ``largest_difference`` is a share of the largest output."""
    started = time.process_time()
    graph, weights = capture(network, shape)
    seconds = time.process_time() - started
    with tempfile.TemporaryDirectory() as folder:
        agreement = check_capture(network, graph, weights, evidence=Path(folder))
    largest = agreement.tolerance / BOUND
    table = layers(graph)
    return {
        "nodes": len(graph.nodes),
        "scans": sum(node.operator.name == "scan" for node in graph.nodes),
        "params": sum(layer.params for layer in table),
        "macs": sum(layer.macs for layer in table),
        "largest_difference": agreement.max_abs / largest,
        "capture_cpu_s": round(seconds, 1),
    }


def main(arguments: argparse.Namespace) -> int:
    if arguments.code:
        sys.path.insert(0, str(arguments.code))
    sys.meta_path.append(Empty(arguments.without))
    given = json.loads(arguments.arguments.read_text("utf-8")) if arguments.arguments else {}
    row = row_of(make(arguments.module, given), tuple(arguments.shape))
    difference = row["largest_difference"]
    power = f"2^{math.ceil(math.log2(difference))}" if difference else "0"
    print(f"| {arguments.name} | {row['nodes']} | {row['scans']} | {row['params']:,} | {power} |")
    row |= {
        "module": arguments.module, "source": arguments.source, "arguments": given,
        "shape": arguments.shape, "date": datetime.date.today().isoformat(),
        "command": neutral("benchmarks/graph_capture.py", [shlex.quote(w) for w in sys.argv]),
    }  # fmt: skip
    before = read_json(arguments.output) if arguments.output.exists() else {"networks": {}}
    networks = before["networks"] | {arguments.name: row}
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    write_json(arguments.output, {"tools": tool_versions(), "networks": networks})
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--name", required=True, help="of the row")
    add("--module", required=True, metavar="PACKAGE.MODULE:NAME", help="what makes the network")
    add("--arguments", type=Path, metavar="FILE", help="JSON with its keyword arguments")
    add("--shape", type=int, nargs="+", required=True, help="N C and the spatial sizes")
    add("--code", type=Path, metavar="FOLDER", help="where modules are found first")
    add("--without", nargs="+", default=[], metavar="NAME", help="packages that are left empty")
    add("--source", default="", help="where the code is from, for the result")
    add("-o", "--output", type=Path, required=True)
    return parser.parse_args()


if __name__ == "__main__":
    given_arguments = parse()
    sys.exit(run_command(lambda: main(given_arguments)))
