"""A volume from file to file beside nnU-Net's own prediction: the article's 0.82 s against 1.35 s.

    python benchmarks/volume.py --nnunet-python ENVIRONMENT/bin/python -o results/volume.json

Both sides take slices whole, at the image's own spacing, from a NIfTI file of 512x512x64 to a NIfTI
mask, on this CPU with the same number of threads, each in processes of its own. Ours are ``edge``
and ``base`` with an input of 512x512 as ``infer`` runs an ort build of them (INT8), and the same
networks in FP32 in ONNX Runtime without the operators that an ort build compiles. Theirs is
``nnUNetv2_predict`` with a plain 2-D U-Net of the size that nnU-Net plans for such slices (8
stages, 32 to 512 channels), as it is by default (mirrored four ways) and with ``--disable_tta``.
Weights are random, which changes no time: the masks mean nothing. The environment needs nnunetv2
2.8.1. ``--side 128 --slices 4`` tries it in a minute.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from accuracy import neutral
from infer_volume import build_untrained, time_once, write_volume

from lmaunet.deploy.console import run_command, table
from lmaunet.deploy.timing import cpu_model
from lmaunet.errors import UserError
from lmaunet.stage import tool_versions, write_json

ARTICLE = {"lmaunet_s": 0.82, "nnunet_s": 1.35, "ratio": 0.61, "on": "an A100"}
SPACING_MM, SIDE, SLICES, CLASSES = 0.72, 512, 64, 9
THEIRS = Path(__file__).with_name("volume_nnunet.py")


def main(given: argparse.Namespace) -> int:
    python = given.nnunet_python
    if python is not None and not python.is_file():
        raise UserError(f"--nnunet-python {python} is no file; give an environment's python")
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        folder = place / "images"
        folder.mkdir()
        image = write_volume(folder / "case_0000.nii.gz", SPACING_MM, given.side, given.slices)
        rows: list[dict[str, Any]] = []
        content = {
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "command": neutral("benchmarks/volume.py", sys.argv),
            "cpu": cpu_model(),
            "threads": threads(),
            "image": f"synthetic abdomen, {given.side}x{given.side}x{given.slices}, int16, .nii.gz",
            "article": ARTICLE,
            "tools": tool_versions(),
            "rows": rows,
        }

        def done(row: dict[str, Any]) -> None:
            rows.append({**row, "load_average": round(os.getloadavg()[0], 1)})
            given.output.parent.mkdir(parents=True, exist_ok=True)
            write_json(given.output, content)
            print(f"{row['network']}, {row['how']}: {row['process_s']:.2f} s", flush=True)

        if python is not None:
            for tta in (False, True) if given.tta else (False,):
                for row in theirs(python, place, folder, given.side, tta):
                    done(row)
        for spec in given.spec:
            build = build_untrained(spec, place / spec, given.side, SPACING_MM)
            done(ours(spec, build, image, place))
            if given.float32:
                done(ours_in_float(spec, place / spec, image))
        print(*shown(content), sep="\n")
    return 0


def threads() -> int:
    """Return how many processors this process may use, which both sides do."""
    return len(os.sched_getaffinity(0))


def ours(spec: str, build: Path, image: Path, place: Path) -> dict[str, Any]:
    """Return one run of ``infer`` in a process of its own."""
    found = time_once(build, image, place / "mask.nii.gz", 0.5)
    ms = found["times_ms"]
    return {
        "network": spec, "how": "infer, ort build, INT8", "process_s": found["wall_ms"] / 1e3,
        "phases_s": seconds(ms), "windows_per_slice": found["slices"]["windows_per_slice"],
        "peak_mb": round(found["peak_mb"]),
    }  # fmt: skip


def ours_in_float(spec: str, place: Path, image: Path) -> dict[str, Any]:
    """Return one run in FP32, in a process of its own."""
    command = [sys.executable, __file__, "--one-float", str(place), "--image", str(image)]
    started = time.perf_counter()
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    wall = time.perf_counter() - started
    return {
        "network": spec, "how": "ONNX Runtime, FP32", "process_s": wall,
        "phases_s": json.loads(done.stdout)["phases_s"],
    }  # fmt: skip


def run_in_float(place: Path, image: Path) -> int:
    """Segment a volume with ``float32.onnx`` as ``infer`` does with a build; print its times."""
    import onnxruntime

    from lmaunet.artifacts import Build
    from lmaunet.data.inference import prepare_volume
    from lmaunet.deploy.deployment import Interface
    from lmaunet.deploy.segmenter import Network, Timer, segment
    from lmaunet.deploy.targets import Target
    from lmaunet.stage import read_json

    path, timer = place / "float32.onnx", Timer()
    interface = Interface.from_json(read_json(place / "interface.json"), "interface.json")
    sessions: list[Any] = []

    def run(build: Build, images: Any) -> Any:
        if not sessions:
            sessions.append(onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]))
        (entry,) = sessions[0].get_inputs()
        return sessions[0].run(None, {entry.name: images})[0]

    target = Target("float", "", list, None, run, None, lambda build: "FP32")  # type: ignore[arg-type]
    network = Network(target, Build("float", place, path, ()), len(interface.classes), timer)
    with timer.phase("read"):
        volume = prepare_volume([image], interface.preparation, 1)
    # a batch of 1: the exported graph is for one image
    mask = segment(volume, network, overlap=0.5, batch=1, say=lambda share, line: None)
    with timer.phase("write"):
        volume.write(place / "mask.nii.gz", mask, interface.classes, "float")
    print(json.dumps({"phases_s": seconds(timer.times_ms)}))
    return 0


def seconds(ms: dict[str, float]) -> dict[str, float]:
    """Return phases under the words of both sides."""
    named = {
        "open": ms["open"], "read": ms["read"], "preprocess": ms["prepare"],
        "network": ms["first_call"] + ms["infer"], "windows": ms["blend"],
        "classes": ms["restore"], "write": ms["write"],
    }  # fmt: skip
    return {name: round(value / 1e3, 3) for name, value in named.items()}


def theirs(python: Path, place: Path, images: Path, side: int, tta: bool) -> list[dict[str, Any]]:
    """Return a run of ``nnUNetv2_predict``, and one of its own steps, each timed."""
    results = place / "results"
    environment = {
        **os.environ, "nnUNet_raw": str(place), "nnUNet_preprocessed": str(place),
        "nnUNet_results": str(results), "OMP_NUM_THREADS": str(threads()), "nnUNet_compile": "f",
    }  # fmt: skip
    call = [str(python), str(THEIRS)]
    made = ["make", str(results), str(side), str(SPACING_MM), str(CLASSES)]
    subprocess.run([*call, *made], check=True, env=environment, stdout=subprocess.DEVNULL)
    how = "mirrored (its default)" if tta else "--disable_tta"
    predict = [
        str(python.with_name("nnUNetv2_predict")), "-d", "1", "-c", "2d", "-f", "0", "-i",
        str(images), "-o", str(place / "theirs"), "-device", "cpu", "-npp", "1", "-nps", "1",
        *([] if tta else ["--disable_tta"]),
    ]  # fmt: skip
    started = time.perf_counter()
    subprocess.run(predict, check=True, env=environment, stdout=subprocess.DEVNULL,
                   stderr=subprocess.DEVNULL)  # fmt: skip
    wall = time.perf_counter() - started
    if not list((place / "theirs").glob("*.nii.gz")):
        raise UserError("nnUNetv2_predict wrote no mask; run it by hand in its environment")
    rows = [{"network": "nnU-Net 2-D", "how": f"nnUNetv2_predict, {how}", "process_s": wall}]
    steps = ["steps", str(results), str(images), str(place / "steps.nii.gz"), str(int(tta))]
    started = time.perf_counter()
    done = subprocess.run([*call, *steps], check=True, env=environment, stdout=subprocess.PIPE)
    wall = time.perf_counter() - started
    found = json.loads(done.stdout.decode().strip().splitlines()[-1])
    rows.append(
        {"network": "nnU-Net 2-D", "how": f"its steps one after the other, {how}",
         "process_s": wall, **found}
    )  # fmt: skip
    return rows


def shown(content: dict[str, Any]) -> list[str]:
    """Return the rows as a table, with the ratio of each of ours to each prediction of theirs."""
    rows = content["rows"]
    theirs = [row for row in rows if row["how"].startswith("nnUNetv2_predict")]
    phases = ["open", "read", "preprocess", "network", "windows", "classes", "write"]
    cells = []
    for row in rows:
        of_theirs = [
            ""
            if row["network"].startswith("nnU-Net")
            else f"{row['process_s'] / t['process_s']:.2f}"
            for t in theirs
        ]
        spent = row.get("phases_s", {})
        cells.append(
            [row["network"], row["how"], f"{row['process_s']:.2f}",
             *(f"{spent[p]:.2f}" if p in spent else "" for p in phases), *of_theirs]
        )  # fmt: skip
    head = ["network", "how", "s", *phases]
    head += [f"of {t['how'].partition(', ')[2]}" for t in theirs]
    return [*table(head, cells), f"the article's ratio: {ARTICLE['ratio']} on {ARTICLE['on']}"]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nnunet-python", type=Path, help="python of an environment with nnunetv2")
    parser.add_argument("--spec", nargs="*", default=["edge", "base"])
    parser.add_argument("--side", type=int, default=SIDE)
    parser.add_argument("--slices", type=int, default=SLICES)
    parser.add_argument("--no-float32", dest="float32", action="store_false")
    parser.add_argument("--no-tta", dest="tta", action="store_false", help="nnU-Net once only")
    parser.add_argument("-o", "--output", type=Path, default=Path("results/volume.json"))
    parser.add_argument("--one-float", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--image", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def start() -> int:
    given = parse()
    if given.one_float is not None:
        return run_in_float(given.one_float, given.image)
    return main(given)


if __name__ == "__main__":
    sys.exit(run_command(start))
