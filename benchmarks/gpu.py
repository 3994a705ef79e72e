"""On an NVIDIA GPU: the scan against mamba-ssm's kernel, a training step, the network's latency.

    python benchmarks/gpu.py                             # writes results/gpu.json
    python benchmarks/gpu.py --device cpu -o trial.json  # a dry run of the same code

Without a GPU it says why, writes nothing and ends with status 3. mamba-ssm is optional: without it
its row says so. Times are medians, by CUDA events on a GPU. Parts:

- scan: values and gradients against a float64 loop over the tokens, as the largest difference
  relative to the largest magnitude, and the time of forward and of forward with backward, for our
  torch form (``lanes``), on a CPU the compiled one, and mamba-ssm's kernel;
- training: one step (forward, loss, backward, Adam) of `edge`, by batch;
- latency: one image through `edge` and `base` at 256x256 in torch, FP32 and FP16 (autocast).
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager as ContextManager
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F

from lmaunet.errors import ToolNotFound, UserError
from lmaunet.net import scan, scan_compiled, scan_lanes
from lmaunet.net.network import LMaUNet
from lmaunet.spec import NetSpec, named_spec
from lmaunet.stage import tool_versions, write_json

FIX = "run it on a machine with an NVIDIA GPU and a CUDA build of torch, or add --device cpu"
MAMBA_FIX = "python -m pip install 'mamba-ssm>=2.2', which needs CUDA's compiler"
NAMES = ("x", "dt", "A", "B", "C", "D")
CHECKED_TOKENS = 512
# batch, tokens, channels, states: the first two scans of `edge` at 256x256, and a long one
SCANS = ((8, 16384, 48, 8), (8, 4096, 96, 8), (1, 65536, 48, 16))
QUICK_SCANS = ((1, 256, 4, 2),)
QUICK_SPEC = NetSpec("quick", (4, 8, 8, 8, 8), states=2, kernels=(3, 3, 3, 3), input_size=(32, 32))

Row = dict[str, Any]
Scan = Callable[..., torch.Tensor]


def require_device(name: str) -> torch.device:
    """Return the device; raises :class:`ToolNotFound` where it is a GPU that is not here."""
    if name == "cpu":
        return torch.device("cpu")
    if torch.version.cuda is None:
        raise ToolNotFound("a CUDA build of torch", "to use a GPU", FIX)
    if not torch.cuda.is_available():
        raise ToolNotFound("a CUDA GPU", "to be measured", FIX)
    return torch.device("cuda")


def make_inputs(
    size: tuple[int, int, int, int], device: torch.device, dtype: torch.dtype = torch.float32
) -> list[torch.Tensor]:
    """Return x, dt, A, B, C, D; equal on every device."""
    batch, tokens, channels, states = size
    random = torch.Generator().manual_seed(0)
    made = [
        torch.randn(batch, tokens, channels, generator=random),
        torch.randn(batch, tokens, channels, generator=random) - 3,
        -torch.arange(1.0, states + 1).repeat(channels, 1),
        torch.randn(batch, tokens, states, generator=random),
        torch.randn(batch, tokens, states, generator=random),
        torch.randn(channels, generator=random),
    ]
    return [tensor.to(device, dtype) for tensor in made]


def plain_scan(x, dt, A, B, C, D):
    """The recurrence as a loop over the tokens, for autograd."""
    delta = F.softplus(dt)
    h, reads = torch.zeros_like(delta[:, 0, :, None] * A), []
    for t in range(x.shape[1]):
        drive = (delta[:, t] * x[:, t])[..., None] * B[:, t, None]
        h = torch.exp(delta[:, t, :, None] * A) * h + drive
        reads.append((h * C[:, t, None]).sum(-1))
    return torch.stack(reads, 1) + D * x


@contextlib.contextmanager
def chosen(module: ModuleType) -> Iterator[None]:
    """Have our scan, forward and backward, computed in one of its forms."""
    before, scan._form = scan._form, lambda x: module
    try:
        yield
    finally:
        scan._form = before


def forms(device: torch.device) -> dict[str, tuple[Scan, ContextManager] | str]:
    """Return each form of the scan on a device, within what it runs, or why it is not there."""
    found: dict[str, tuple[Scan, ContextManager] | str] = {}
    modules = {"lanes": scan_lanes}
    if device.type == "cpu":
        modules["compiled"] = scan_compiled
    for name, module in modules.items():
        found[name] = scan.SelectiveScan.apply, chosen(module)
    kernel = scan._mamba_kernel()
    if device.type == "cpu":
        found["mamba-ssm"] = "its kernel runs on a GPU alone"
    elif kernel is None:
        found["mamba-ssm"] = "mamba-ssm is not installed, or cannot be imported"
    else:
        found["mamba-ssm"] = partial(scan._with_mamba, kernel), contextlib.nullcontext()
    return found


def leaves(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    return [tensor.detach().clone().requires_grad_() for tensor in tensors]


def differences(run: Scan, size: tuple[int, int, int, int], device: torch.device) -> Row:
    """Return how far values and gradients are from those of the loop in float64."""
    results = []
    for function, dtype in ((plain_scan, torch.float64), (run, torch.float32)):
        inputs = leaves(make_inputs(size, device, dtype))
        y = function(*inputs)
        y.backward(torch.ones_like(y))
        results.append([y.detach(), *(tensor.grad for tensor in inputs)])
    names = ("y", *(f"grad_{name}" for name in NAMES))
    return {
        name: float((got.double() - want).abs().max() / want.abs().max())
        for name, want, got in zip(names, *results, strict=True)
    }


def median_ms(work: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Return the median time of some work in milliseconds, after two runs to warm up."""
    times = []
    for index in range(repeats + 2):
        if device.type == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            work()
            end.record()
            end.synchronize()
            milliseconds = start.elapsed_time(end)
        else:
            before = time.perf_counter()
            work()
            milliseconds = 1e3 * (time.perf_counter() - before)
        if index >= 2:
            times.append(milliseconds)
    return statistics.median(times)


def attempt(row: Row, work: Callable[[], Row], fix: str = "") -> Row:
    """Return a row with what some work finds, or with why it found nothing."""
    try:
        return row | work()
    except (RuntimeError, ImportError, torch.cuda.OutOfMemoryError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        return row | {"unavailable": {"tool": row["form"], "why": lines[0], "fix": fix}}


def scan_rows(device: torch.device, repeats: int, quick: bool) -> list[Row]:
    rows = []
    for size in QUICK_SCANS if quick else SCANS:
        batch, tokens, *rest = size
        checked = (min(batch, 2), min(tokens, CHECKED_TOKENS), *rest)
        for name, form in forms(device).items():
            keys = ("batch", "tokens", "channels", "states")
            row: Row = {"part": "scan", "form": name, **dict(zip(keys, size, strict=True))}
            if isinstance(form, str):
                lack = {"tool": name, "why": form, "fix": MAMBA_FIX}
                rows.append(row | {"unavailable": lack})
                continue

            run, context = form

            def work(run: Scan = run, size: Any = size, checked: Any = checked) -> Row:
                inputs = make_inputs(size, device)
                gradients = leaves(inputs)
                with torch.no_grad():
                    forward = median_ms(lambda: run(*inputs), device, repeats)
                both = median_ms(lambda: run(*gradients).sum().backward(), device, repeats)
                return {
                    "relative_differences": differences(run, checked, device),
                    "checked_tokens": checked[1],
                    "forward_ms": forward,
                    "forward_backward_ms": both,
                }

            with context:
                rows.append(attempt(row, work))
    return rows


def training_rows(device: torch.device, repeats: int, quick: bool) -> list[Row]:
    spec = QUICK_SPEC if quick else named_spec("edge")
    rows = []
    for batch in (1,) if quick else (1, 8):

        def work(batch: int = batch) -> Row:
            torch.manual_seed(0)
            model = LMaUNet(spec).to(device).train()
            optimizer = torch.optim.Adam(model.parameters())
            images = torch.randn(batch, spec.in_channels, *spec.input_size, device=device)
            labels = torch.randint(spec.classes, (batch, *spec.input_size), device=device)

            def step() -> None:
                optimizer.zero_grad()
                F.cross_entropy(model(images), labels).backward()
                optimizer.step()

            return {"step_ms": median_ms(step, device, repeats)}

        row: Row = {"part": "training", "form": "torch fp32", "spec": spec.name, "batch": batch}
        rows.append(attempt(row, work))
    return rows


def latency_rows(device: torch.device, repeats: int, quick: bool) -> list[Row]:
    specs = [QUICK_SPEC] if quick else [named_spec("edge"), named_spec("base")]
    rows = []
    for spec in specs:
        spec = spec if quick else spec.replace(input_size=(256, 256))
        for precision in ("fp32", "fp16"):
            row: Row = {"part": "latency", "form": f"torch {precision}", "spec": spec.name,
                        "input": "x".join(map(str, spec.input_size))}  # fmt: skip
            if precision == "fp16" and device.type == "cpu":
                lack = {"tool": "FP16", "why": "torch has it for a GPU", "fix": FIX}
                rows.append(row | {"unavailable": lack})
                continue

            def work(spec: NetSpec = spec, half: bool = precision == "fp16") -> Row:
                torch.manual_seed(0)
                model = LMaUNet(spec).to(device).eval()
                image = torch.randn(1, spec.in_channels, *spec.input_size, device=device)
                with torch.no_grad(), torch.autocast(device.type, torch.float16, enabled=half):
                    return {"median_ms": median_ms(lambda: model(image), device, repeats)}

            rows.append(attempt(row, work))
    return rows


def run(options: argparse.Namespace, device: torch.device) -> Row:
    """Measure everything and return the content of the JSON file."""
    parts = (scan_rows, training_rows, latency_rows)
    rows = [row for part in parts for row in part(device, options.repeats, options.quick)]
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return {
        "command": " ".join(["python benchmarks/gpu.py", *(a for a in sys.argv[1:])]),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "device": device.type,
        "gpu": name,
        "cuda": torch.version.cuda or "",
        "tf32": torch.backends.cuda.matmul.allow_tf32,
        "repeats": options.repeats,
        "versions": tool_versions(),
        "rows": rows,
    }


def lines(content: Row) -> list[str]:
    """Return a line for each row, for a person."""
    found = [f"device: {content['gpu'] or content['device']}"]
    for row in content["rows"]:
        figures = {k: v for k, v in row.items() if k.endswith("_ms")}
        if "relative_differences" in row:
            figures["largest difference"] = max(row["relative_differences"].values())
        words = ", ".join(f"{key} {value:.3g}" for key, value in figures.items())
        if "unavailable" in row:
            words = f"unavailable: {row['unavailable']['why']}; {row['unavailable']['fix']}"
        keys = ("part", "form", "spec", "input", "batch", "tokens", "channels", "states")
        found.append(" ".join(str(row[key]) for key in keys if key in row) + f": {words}")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--quick", action="store_true", help="tiny sizes: a trial")
    parser.add_argument("-o", "--out", type=Path, help="results/gpu.json on a GPU; none on a CPU")
    options = parser.parse_args()
    try:
        if options.repeats < 1:
            raise UserError(f"--repeats {options.repeats}; expected 1 or more; give such a number")
        device = require_device(options.device)
        content = run(options, device)
        out = options.out or (Path("results/gpu.json") if device.type == "cuda" else None)
        if out is not None:
            out.parent.mkdir(parents=True, exist_ok=True)
            write_json(out, content)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    print("\n".join(lines(content)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
