"""Heat maps on images where the cause is known: a square far from the disc decides its class.

Each image has a disc in its lower half and a square in its upper half. The disc is to be labelled
``one`` where the square is bright and ``two`` where it is dark, so that a network that tells them
apart has looked at the square. For each LKM the share of the map of ``one`` that lies on the square
is set against the square's share of the image, beside the same with randomised weights.

    python benchmarks/heatmap_phantom.py --picture docs/heatmaps.png

A network for each of three seeds; the table has how many times the square's share of the area its
share of the map is. Writes ``results/heatmap_phantom.json``.
"""

from __future__ import annotations

import argparse
import base64
import copy
import datetime
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from accuracy import neutral

from lmaunet.data.dataset import SliceSet
from lmaunet.deploy.console import table
from lmaunet.deploy.heatmap_pictures import heatmap_rows
from lmaunet.net.network import LMaUNet
from lmaunet.quant.heatmaps import blocks_of, class_activation, randomized
from lmaunet.spec import NetSpec
from lmaunet.stage import tool_versions, write_json
from lmaunet.train.loop import fit
from lmaunet.train.processes import join_processes
from lmaunet.train.schedule import Schedule

SIZE, SQUARE, RADIUS = 64, 12, 8
CLASSES = ("background", "one", "two")
SPEC = NetSpec(
    "phantom", (8, 12, 16, 24, 32), classes=3, states=4, kernels=(7, 7, 7, 5),
    input_size=(SIZE, SIZE),
)  # fmt: skip
RESULT = Path(__file__).parents[1] / "results" / "heatmap_phantom.json"


def draw(count: int, seed: int) -> tuple[SliceSet, np.ndarray]:
    """Return slices, and the squares as masks ``(n, H, W)``."""
    rng = np.random.default_rng(seed)
    images = rng.normal(0, 0.2, (count, 1, SIZE, SIZE)).astype(np.float32)
    labels = np.zeros((count, SIZE, SIZE), np.uint8)
    squares = np.zeros((count, SIZE, SIZE), bool)
    rows, columns = np.indices((SIZE, SIZE))
    for index in range(count):
        top, left = rng.integers(2, SIZE // 2 - SQUARE - 2), rng.integers(2, SIZE - SQUARE - 2)
        squares[index, top : top + SQUARE, left : left + SQUARE] = True
        y, x = rng.integers(SIZE // 2 + RADIUS, SIZE - RADIUS), rng.integers(RADIUS, SIZE - RADIUS)
        disc = (rows - y) ** 2 + (columns - x) ** 2 <= RADIUS**2
        bright = index % 2 == 0
        images[index, 0][squares[index]] += 2.0 if bright else -2.0
        images[index, 0][disc] += 1.0
        labels[index][disc] = 1 if bright else 2
    names = np.array([f"case{i}" for i in range(count)])
    return SliceSet(images, labels, names, np.zeros(count, int)), squares


def near(squares: np.ndarray, by: int) -> np.ndarray:
    """Return masks grown by some pixels: a map of a coarse block cannot be sharper than it."""
    grown = F.max_pool2d(torch.from_numpy(squares[:, None].astype(np.float32)), 2 * by + 1, 1, by)
    return grown[:, 0].numpy() > 0


def shares(network: torch.nn.Module, held: SliceSet, squares: np.ndarray) -> dict[str, float]:
    """Return the mean share of each LKM's map of ``one`` that lies on the square."""
    blocks = blocks_of(network)
    images = torch.from_numpy(held.images)
    maps = class_activation(network, images, 1, list(blocks.values()), "all").numpy()
    found: dict[str, float] = {}
    for place, name in enumerate(blocks):
        mask = near(squares, 2**place)
        each = [(m * s).sum() / m.sum() for m, s in zip(maps[:, place], mask, strict=True)
                if m.sum() > 0]  # fmt: skip
        found[name] = float(np.mean(each)) if each else 0.0
    return found


def measure(arguments: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Train a network on one seed's images and return what its maps have on the square."""
    torch.manual_seed(seed)
    network = LMaUNet(SPEC)
    data, _ = draw(arguments.images, seed)
    history = fit(
        network, data, Schedule(arguments.epochs, 5e-3, 8, augment=False), classes=3,
        seed=seed, folder=None, processes=join_processes(),
        progress=lambda share, line: print(f"{share:.2f} {line}", end="\r", flush=True),
    )  # fmt: skip
    network.eval()
    held, squares = draw(40, seed + 1000)
    with torch.no_grad():
        classes = network(torch.from_numpy(held.images)).argmax(1).numpy()
    on_disc = held.labels > 0
    bright = np.arange(len(held)) % 2 == 0
    shown, where = held.take(np.flatnonzero(bright)), squares[bright]
    shuffled = copy.deepcopy(network)
    randomized(shuffled, 1)
    if arguments.picture is not None and seed == arguments.seeds[0]:
        rows = heatmap_rows(
            network, shown.images[:1], shown.labels[:1], CLASSES, titles=["phantom"], pixels="all",
            wanted=[1], tile_pixels=192,
        )  # fmt: skip
        save(arguments.picture, rows["rows"][0]["tiles"])
    return {
        "seed": seed,
        "dice_in_training": history[-1]["dice"],
        "disc_pixels_right": float((classes == held.labels)[on_disc].mean()),
        "share_of_map_on_square": shares(network, shown, where),
        "share_of_area_of_square": {
            f"lkm{i + 1}": float(near(where, 2**i).mean()) for i in range(4)
        },
        "share_with_randomised_weights": shares(shuffled, shown, where),
    }


def main() -> None:
    """Train a network for each seed, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--images", type=int, default=96)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--picture", type=Path, help="of the first seed's maps")
    parser.add_argument("--output", type=Path, default=RESULT)
    arguments = parser.parse_args()
    content = {
        "command": neutral("benchmarks/heatmap_phantom.py", sys.argv),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "versions": tool_versions(),
        "threads": torch.get_num_threads(),
        "epochs": arguments.epochs,
        "images": arguments.images,
        "rows": [measure(arguments, seed) for seed in arguments.seeds],
    }
    write_json(arguments.output, content)
    print()
    print("\n".join(lines(content)))


def lines(content: dict[str, Any]) -> list[str]:
    """Return the table that the documentation shows."""
    header = ["seed", "pixels right", "lkm1", "lkm2", "lkm3", "lkm4", "shuffled: lkm1", "lkm2",
              "lkm3", "lkm4"]  # fmt: skip
    cells = []
    for row in content["rows"]:
        area = row["share_of_area_of_square"]
        times = [
            f"{row[key][name] / area[name]:.1f}"
            for key in ("share_of_map_on_square", "share_with_randomised_weights")
            for name in area
        ]
        cells.append([str(row["seed"]), f"{100 * row['disc_pixels_right']:.1f}", *times])
    return table(header, cells)


def save(path: Path, tiles: list[str]) -> None:
    """Write tiles side by side, each over the image, which is the first."""
    import io

    from PIL import Image

    read = [Image.open(io.BytesIO(base64.b64decode(t.partition(",")[2]))) for t in tiles]
    base: Image.Image = read[0].resize(read[1].size, Image.Resampling.BILINEAR).convert("RGBA")
    over = [Image.alpha_composite(base, t.convert("RGBA")) for t in read[1:]]
    laid = [base, *over]
    wide = Image.new("RGB", (sum(t.width + 4 for t in laid) - 4, laid[0].height), "white")
    left = 0
    for tile in laid:
        wide.paste(tile.convert("RGB"), (left, 0))
        left += tile.width + 4
    wide.save(path, optimize=True)


if __name__ == "__main__":
    main()
