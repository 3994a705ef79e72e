"""Draw what a stroke does, on the synthetic abdomen: docs/correction.png.

python benchmarks/refine_picture.py -o docs/correction.png
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import matplotlib
import numpy as np

from lmaunet.data.phantom import SPACING_MM, phantom_volume
from lmaunet.deploy.console import run_command
from lmaunet.deploy.correction import NO_STROKE, correct

WINDOW = (-125.0, 275.0)
WIDE = 9
COLOURS = ("#ffb000", "#648fff", "#dc267f", "#785ef0", "#fe6100")


def main(arguments: argparse.Namespace) -> int:
    matplotlib.use("Agg")
    from matplotlib import pyplot

    hu, truth = phantom_volume(0)
    sizes = np.bincount(truth.ravel())[1:]
    organ = int(sizes.argmax()) + 1
    z = int((truth == organ).sum((1, 2)).argmax())
    _, columns = np.nonzero(truth[z] == organ)
    low, high = z - 1, z + 2
    mask = truth[low:high].copy()
    part = mask == organ
    part[:, :, : columns.max() - WIDE] = False
    mask[part] = 0
    strokes = np.full(mask.shape, NO_STROKE, np.int32)
    rows, right = np.nonzero(part[1])
    at = int(np.median(right))
    rows = np.sort(rows[right == at])
    strokes[1, rows[0] + 2 : rows[-1] - 1, at : at + 2] = organ
    image = hu[low:high].astype(np.float32)
    spacing = (SPACING_MM,) * 3
    done = correct(image[None], mask, strokes, spacing).mask
    wrong = [np.count_nonzero(m[1] != truth[z]) for m in (mask, done)]
    print(f"wrong voxels in the slice: {wrong[0]} before, {wrong[1]} after")
    y, x = np.nonzero(truth[z] > 0)
    here = (slice(max(0, y.min() - 12), y.max() + 12), slice(max(0, x.min() - 12), x.max() + 12))
    figure, axes = pyplot.subplots(1, 3, figsize=(9, 2.8), dpi=90)
    titles = ("a mask that misses a part", "a stroke of the organ", "the corrected mask")
    for axis, title, labels in zip(axes, titles, (mask, mask, done), strict=True):
        axis.imshow(image[1][here], cmap="gray", vmin=WINDOW[0], vmax=WINDOW[1])
        for label in np.unique(labels[1])[1:]:
            colour = COLOURS[label % len(COLOURS)]
            axis.contour(labels[1][here] == label, [0.5], colors=colour, linewidths=1.2)
        axis.set_title(title, fontsize=10)
        axis.axis("off")
    y, x = np.nonzero(strokes[1][here] == organ)
    axes[1].plot(x, y, "s", color="#00ff66", markersize=2)
    figure.tight_layout()
    figure.savefig(arguments.output)
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("-o", "--output", type=Path, default=Path("docs/correction.png"))
    sys.exit(run_command(lambda: main(parser.parse_args())))
