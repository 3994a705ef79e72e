"""The commands ``data fetch`` and ``data info``."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmaunet.deploy.console import progress_bar, table
from lmaunet.deploy.run_lock import in_use
from lmaunet.deploy.runs import DEFAULT_DATA, DataSource
from lmaunet.errors import UserError
from lmaunet.spec import named_spec

FUSED = ("as it is", "resampled", "registered")

if TYPE_CHECKING:
    from lmaunet.data.dataset import Dataset


def fetch(folder: Path, phantom: bool) -> tuple[dict[str, Any], list[str]]:
    """Fetch the example CT into a folder; with ``phantom`` there is nothing to fetch."""
    if phantom:
        text = "the phantom is synthetic and needs no files; give --phantom to train, qat or demo"
        return {"phantom": True}, [text]
    from lmaunet.data.fetch import fetch as fetch_files
    from lmaunet.data.fetch import info as fetched

    complete = fetched(folder)["complete"]
    lock = contextlib.nullcontext() if complete else in_use(folder, "--to")
    with progress_bar("fetching the example CT") as progress, lock:
        fetch_files(folder, lambda line: progress(0.5, line))
    content = fetched(folder)
    return content, [
        f"{folder}: {len(content['files'])} files, checksums verified",
        "The labels are TotalSegmentator's output, not a radiologist's: a score on them is",
        "agreement with that model, never clinical accuracy.",
    ]


def info(source: DataSource | None) -> tuple[dict[str, Any], list[str]]:
    """Describe a data set as the demo network sees it."""
    if source is None:
        if not (DEFAULT_DATA / "SOURCE.json").exists():
            raise UserError(
                "no data: give --data DIR or --phantom, or get the example CT with: "
                "lmaunet-deploy data fetch"
            )
        source = DataSource(DEFAULT_DATA)
    from lmaunet.data.loaders import load, load_phantom
    from lmaunet.data.normalization import describe

    size = named_spec("demo").input_size
    with progress_bar("reading the data"):
        if source.path is None:
            data = load_phantom(size=size, seed=source.seed)
        else:
            data = load(source.path, size=size, seed=source.seed, class_map=source.class_map)
    counts = data.counts()
    rows = [
        [name, *(str(counts[side][name][key]) for side in counts for key in ("slices", "pixels"))]
        for name in data.classes
    ]
    lines = [
        f"{data.name}: {data.layout}",
        f"labels: {data.label_source}",
        f"patients: {_patients(data)}",
        f"split: {data.split}",
        f"channels: {', '.join(f'{i} {name}' for i, name in enumerate(data.channels))}",
        *(f"intensities: {line}" for line in describe(data.normalization, data.channels)),
        "",
        *table(["class", "train slices", "pixels", "val slices", "pixels"], rows),
        *data.notes,
    ]
    return {**data.to_json(), "counts": counts}, lines


def fuse(folder: Path, output: Path, register: bool) -> tuple[dict[str, Any], list[str]]:
    """Write a data set of several modalities on one grid for each case."""
    from lmaunet.data.fused_set import fuse_set

    with progress_bar("fusing") as progress:
        content = fuse_set(folder, output, register=register, say=progress)
    images = [row for case in content["cases"] for row in case["images"]]
    counts = {how: sum(row["how"] == how for row in images) for how in FUSED}
    lines = [f"{len(content['cases'])} cases; images: "
             + ", ".join(f"{count} {how}" for how, count in counts.items())]  # fmt: skip
    worst = max(images, key=lambda row: row.get("uncovered", 0.0))
    if worst.get("uncovered", 0.0) > 0:
        lines.append(f"at most {100 * worst['uncovered']:.1f}% of a grid is not covered "
                     f"({worst['image']})")  # fmt: skip
    return content, [*lines, f"wrote {output}; look at some of them before a training"]


def _patients(data: Dataset) -> str:
    train, val = (set(data.patients_of(side)) for side in ("train", "val"))
    cases = len(set(data.train.cases) | set(data.val.cases))
    text = f"{len(train | val)} with {cases} case(s); {data.told_apart}"
    both = sorted(train & val)
    return text + (f"; {', '.join(both)} is on both sides, divided by blocks" if both else "")
