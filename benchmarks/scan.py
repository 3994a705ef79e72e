"""Time and memory of the training scan against a plain loop over the tokens.

    .venv/bin/python benchmarks/scan.py
    .venv/bin/python benchmarks/scan.py --lengths 1024 4096 --batch 8 --channels 24 --states 8

Each form runs forward and backward in a process of its own, so that its peak memory is its own.
The two forms of one length take turns, ``--rounds`` times, so that a machine that is busy for a
while is so for both. A table on standard output has one row for each length and form:

- forward, backward: medians over all repetitions, in milliseconds;
- peak memory: how far the largest resident set rose above that of the inputs and the libraries
  (which a first scan of a few tokens loads), in MB, the largest of the rounds;
- time: the median of forward + backward, relative to that of the plain loop.

The threads spin as shortly as those of ``lmaunet-deploy`` (GOMP_SPINCOUNT), unless the environment
says otherwise: with GNU OpenMP's default, runs of many short parallel operations become slower by
an order of magnitude where another process needs the core.

``loop`` is the usual way to write a recurrence in torch: ``a`` and ``b`` are unbound along the
tokens, and autograd differentiates the steps. (Indexing ``a[:, t]`` in its place would take time
that grows as the square of L.) ``lanes`` and ``compiled`` are ``lmaunet.net.scan_lanes`` and
``lmaunet.net.scan_compiled``.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from typing import Any

FORMS = ("loop", "lanes", "compiled")


def loop_scan(x, dt, A, B, C, D):
    import torch
    import torch.nn.functional as F

    delta = F.softplus(dt)
    decays = torch.exp(delta.unsqueeze(-1) * A).unbind(1)
    inflows = ((delta * x).unsqueeze(-1) * B.unsqueeze(2)).unbind(1)
    h = torch.zeros_like(inflows[0])
    states = []
    for decay, inflow in zip(decays, inflows, strict=True):
        h = torch.addcmul(inflow, decay, h)
        states.append(h)
    return torch.einsum("bldn,bln->bld", torch.stack(states, 1), C) + D * x


def peak_mb():
    """Return the largest resident set of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def make_inputs(length, options):
    """Return x, dt, A, B, C, D."""
    import torch

    shape = (options.batch, length)
    return [
        torch.randn(*shape, options.channels),
        torch.randn(*shape, options.channels) - 3,
        -torch.arange(1.0, options.states + 1).repeat(options.channels, 1),
        torch.randn(*shape, options.states),
        torch.randn(*shape, options.states),
        torch.randn(options.channels),
    ]


def measure(form, length, options):
    """Run one form in this process and print its figures as JSON."""
    import torch

    from lmaunet.net import scan, scan_compiled, scan_lanes

    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    function = loop_scan
    if form != "loop":
        module = {"lanes": scan_lanes, "compiled": scan_compiled}[form]
        scan._form = lambda x: module
        function = scan.SelectiveScan.apply
    first = function(*[v.requires_grad_() for v in make_inputs(4, options)])
    first.backward(torch.ones_like(first))
    inputs = make_inputs(length, options)
    grad = torch.randn_like(inputs[0])
    before, forward, backward = peak_mb(), [], []
    for _ in range(options.repeat + 1):
        leaves = [v.clone().requires_grad_() for v in inputs]
        start = time.perf_counter()
        y = function(*leaves)
        middle = time.perf_counter()
        y.backward(grad)
        forward.append(1e3 * (middle - start))
        backward.append(1e3 * (time.perf_counter() - middle))
    # The first repetition pays for memory that the process has not touched before.
    figures = {"forward": forward[1:], "backward": backward[1:], "peak_mb": peak_mb() - before}
    print(json.dumps(figures))


def run_in_own_process(form, length, options):
    command = [sys.executable, __file__, "--measure", form, "--lengths", str(length)]
    for name in ("batch", "channels", "states", "repeat", "threads"):
        command += [f"--{name}", str(getattr(options, name))]
    environment = {
        "GOMP_SPINCOUNT": "10000",
        **os.environ,
        "OMP_NUM_THREADS": str(options.threads),
    }
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise SystemExit(f"{form} at L={length} failed:\n{done.stderr}")
    return json.loads(done.stdout)


def compare(length, options):
    """Return the table's rows of one length."""
    figures: dict[str, list[Any]] = {form: [] for form in FORMS}
    for _ in range(options.rounds):
        for form in FORMS:
            figures[form].append(run_in_own_process(form, length, options))
    rows, reference = [], None
    for form in FORMS:
        forward = [t for f in figures[form] for t in f["forward"]]
        backward = [t for f in figures[form] for t in f["backward"]]
        total = statistics.median(map(sum, zip(forward, backward, strict=True)))
        reference = reference or total
        peak = max(f["peak_mb"] for f in figures[form])
        rows.append((form, statistics.median(forward), statistics.median(backward), peak,
                     total / reference))  # fmt: skip
    return rows


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lengths", type=int, nargs="+", default=[1024, 4096, 16384])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--channels", type=int, default=48)
    parser.add_argument("--states", type=int, default=16)
    parser.add_argument("--repeat", type=int, default=5, help="repetitions in a process")
    parser.add_argument("--rounds", type=int, default=3, help="processes for each form")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--measure", choices=FORMS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(options.measure, options.lengths[0], options)
        return
    print(
        f"batch {options.batch}, channels {options.channels}, states {options.states}, float32, "
        f"{options.threads} threads, {options.rounds} x {options.repeat} repetitions"
    )
    print(f"{'L':>6} {'form':8} {'forward ms':>11} {'backward ms':>12} {'peak MB':>8} {'time':>6}")
    for length in options.lengths:
        for form, forward, backward, peak, ratio in compare(length, options):
            print(f"{length:6d} {form:8} {forward:11.1f} {backward:12.1f} {peak:8.0f} {ratio:6.2f}",
                  flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
