"""How long a volume of 512x512x64 takes from file to file, phase by phase, for some builds.

    python benchmarks/infer_volume.py --build runs/demo/build/ort --untrained edge \
        -o results/infer.json

Each run is a process of its own, ``lmaunet-deploy infer --json``, so that loading is counted as a
user meets it. The volume is the synthetic abdomen, enlarged to 512x512 and saved as int16 in
``.nii.gz``, or ``--image``. ``--untrained SPEC`` builds a network with random weights for ONNX
Runtime: its calls take as long as a trained one's, and its mask means nothing.
Prints a table of medians.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from accuracy import neutral

from lmaunet.data.inference import Preparation
from lmaunet.deploy.console import run_command, table
from lmaunet.deploy.deployment import Interface, write_build
from lmaunet.deploy.segmenter import PHASES
from lmaunet.deploy.targets import BuildRequest, get_target
from lmaunet.deploy.timing import cpu_model
from lmaunet.errors import UserError
from lmaunet.spec import named_spec
from lmaunet.stage import Stage, tool_versions, write_json

SIDE, SLICES = 512, 64
CALIBRATION_IMAGES, NORM_BATCHES = 8, 4
POLL_SECONDS = 0.02


def main(arguments: argparse.Namespace) -> int:
    if arguments.runs < 1:
        raise UserError(f"--runs {arguments.runs}; give 1 or more")
    if not arguments.build and not arguments.untrained:
        raise UserError("nothing to time; give --build DIR or --untrained SPEC")
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        image = arguments.image or write_volume(place / "volume.nii.gz", arguments.spacing_mm)
        builds = [(folder, True) for folder in arguments.build]
        builds += [(build_untrained(s, place / s), False) for s in arguments.untrained]
        rows = []
        command = neutral("benchmarks/infer_volume.py", sys.argv)
        for folder, trained in builds:
            load = round(os.getloadavg()[0], 1)
            runs = [
                time_once(folder, image, place / "mask.nii.gz", arguments.overlap)
                for _ in range(arguments.runs)
            ]
            made = {"trained": trained, "command": command, "load_average_before": load}
            rows.append({**made, "runs": arguments.runs, **summarise(runs)})
            print(*shown([rows[-1]]), sep="\n", flush=True)
    content: dict[str, Any] = {
        "date": datetime.date.today().isoformat(),
        "cpu": cpu_model(),
        "threads": len(os.sched_getaffinity(0)),
        "image": "given" if arguments.image else "synthetic abdomen, int16, .nii.gz",
        "tools": tool_versions(),
        "rows": rows,
    }
    if arguments.output.exists() and arguments.append:
        earlier = json.loads(arguments.output.read_text(encoding="utf-8"))
        content = {**content, "rows": [*earlier["rows"], *rows]}
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    write_json(arguments.output, content)
    print(*shown(content["rows"]), sep="\n")
    print(f"written: {arguments.output}")
    return 0


def write_volume(path: Path, spacing_mm: float, side: int = SIDE, slices_of: int = SLICES) -> Path:
    """Write the synthetic abdomen as 64 slices of 512x512 pixels of ``spacing_mm``."""
    import SimpleITK

    from lmaunet.data.framing import Framing
    from lmaunet.data.phantom import AIR_HU, SPACING_MM, phantom_volume

    hu, _ = phantom_volume(0)
    middle = (len(hu) - slices_of) // 2
    slices = hu[middle : middle + slices_of]
    factor = SPACING_MM / spacing_mm
    framing = Framing.of(slices.shape[1:], (side, side), zoom=(factor, factor))
    image = SimpleITK.GetImageFromArray(np.rint(framing.images(slices, AIR_HU)).astype(np.int16))
    image.SetSpacing((spacing_mm, spacing_mm, SPACING_MM))
    SimpleITK.WriteImage(image, str(path), useCompression=True)
    return path


def build_untrained(
    name: str, place: Path, side: int | None = None, spacing_mm: float | None = None
) -> Path:
    """Return the folder of a build for ONNX Runtime of a named spec with random weights.

    Args:
        name: the spec's.
        place: where it is built; ``float32.onnx`` and ``interface.json`` come beside it.
        side: of the network's input; the spec's own where None.
        spacing_mm: of pixels that the network takes; the phantom's where None.
    """
    import torch

    from lmaunet.data.loaders import load_phantom
    from lmaunet.export.network import export_float32, export_qcdq
    from lmaunet.graph.file import topology_digest
    from lmaunet.net.network import LMaUNet
    from lmaunet.quant.calibration import calibrate
    from lmaunet.quant.network import QuantNetwork

    spec = named_spec(name)
    if side is not None:
        spec = spec.replace(input_size=(side, side))
    data = load_phantom(size=spec.input_size)
    images = data.train.images
    torch.manual_seed(0)
    model = LMaUNet(spec).train()
    with torch.no_grad():  # statistics of the norms
        for start in range(NORM_BATCHES):
            model(torch.from_numpy(images[4 * start : 4 * start + 4]))
    quantized = QuantNetwork.from_module(model.eval(), images.shape)
    calibrate(quantized, images[:CALIBRATION_IMAGES])
    place.mkdir(parents=True)
    qcdq = place / "network.qcdq.onnx"
    export_qcdq(quantized.eval(), torch.from_numpy(images[:1]), qcdq)
    interface = Interface.of(spec, topology_digest(quantized.source), data, {})
    if spacing_mm is not None:
        assert isinstance(interface.preparation, Preparation)
        ready = dataclasses.replace(
            interface.preparation, resampled_mm=(spacing_mm, spacing_mm), fit=False
        )
        interface = dataclasses.replace(interface, preparation=ready)
        export_float32(model, torch.from_numpy(images[:1]), place / "float32.onnx")
        write_json(place / "interface.json", interface.to_json())

    def work(folder: Path) -> None:
        request = BuildRequest(folder, qcdq, qcdq, images[:2], {}, lambda line: None)
        write_build(get_target("ort").build(request), interface, qcdq)

    return Stage(place, "build/ort", {"qcdq": qcdq}, {}).write(work)


def time_once(folder: Path, image: Path, output: Path, overlap: float) -> dict[str, Any]:
    """Return what ``infer --json`` prints, with ``wall_ms`` and ``peak_mb`` of its process."""
    command = [
        sys.executable, "-m", "lmaunet.deploy.cli", "infer", "--build", str(folder), str(image),
        "-o", str(output), "--overlap", str(overlap), "--json",
    ]  # fmt: skip
    with tempfile.TemporaryFile() as out:
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=out)
        peak_mb = 0.0
        while process.poll() is None:
            peak_mb = max(peak_mb, resident_peak_mb(process.pid))
            time.sleep(POLL_SECONDS)
        wall_ms = 1e3 * (time.perf_counter() - started)
        if process.returncode:
            raise UserError(f"infer --build {folder} ended with status {process.returncode}")
        out.seek(0)
        content = json.load(out)
    return {**content, "wall_ms": wall_ms, "peak_mb": peak_mb}


def resident_peak_mb(process: int) -> float:
    """Return the most memory that a process has held so far, in MB; 0 where it has ended.

    The kernel's figure for a process that has ended counts its parent's too.
    """
    try:
        lines = Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0.0
    return max([int(n.split()[1]) * 1024 / 1e6 for n in lines if n.startswith("VmHWM")], default=0)


def summarise(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the medians of some runs of one build on one image, and the range of the totals."""
    first = runs[0]
    windows = first["slices"]["count"] * first["slices"]["windows_per_slice"]
    steady = windows - first["first_call_images"]
    medians = {
        name: round(statistics.median(r["times_ms"][name] for r in runs), 2)
        for name in (*PHASES, "total")
    }
    totals = [r["times_ms"]["total"] for r in runs]
    return {
        "target": first["build"]["target"],
        "network": first["build"]["network"],
        "arithmetic": first["build"]["arithmetic"],
        "build_sha256": first["build"]["sha256"],
        "image_size": first["geometry"]["size"],
        "image_spacing_mm": [round(mm, 4) for mm in first["geometry"]["spacing_mm"]],
        "slices": first["slices"],
        "times_ms": medians,
        "total_ms_range": [round(min(totals), 1), round(max(totals), 1)],
        "window_ms": round(medians["infer"] / steady, 3) if steady else None,
        "process_ms": round(statistics.median(r["wall_ms"] for r in runs), 1),
        "peak_mb": round(max(r["peak_mb"] for r in runs)),
    }


def shown(rows: list[dict[str, Any]]) -> list[str]:
    """Return rows as a table in seconds."""
    cells = [
        [
            row["network"] + ("" if row["trained"] else " (untrained)"), row["target"],
            "x".join(map(str, row["image_size"])),
            f"{row['slices']['windows_per_slice']} of {row['slices']['window'][0]}",
            *(f"{row['times_ms'][name] / 1e3:.2f}" for name in (*PHASES, "total")),
            f"{row['process_ms'] / 1e3:.2f}", str(row["peak_mb"]),
        ]
        for row in rows
    ]  # fmt: skip
    head = ["network", "target", "image", "windows", *PHASES, "total", "process", "MB"]
    return table([name.replace("_", " ") for name in head], cells)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", type=Path, action="append", default=[], help="repeatable")
    parser.add_argument("--untrained", action="append", default=[], help="a spec; repeatable")
    parser.add_argument("--image", type=Path, help="instead of the synthetic volume")
    parser.add_argument("--spacing-mm", type=float, default=0.72, help="of the synthetic volume")
    parser.add_argument("--overlap", type=float, default=0.5)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--append", action="store_true", help="keep the rows of the output file")
    parser.add_argument("-o", "--output", type=Path, default=Path("results/infer.json"))
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(run_command(lambda: main(parse())))
