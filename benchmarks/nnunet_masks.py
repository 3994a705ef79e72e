"""Masks of a network of nnU-Net's, computed by this project in float, beside nnU-Net's own.

    nnUNetv2_predict -d 1 -c 2d -f 0 -i imagesTs -o theirs -device cpu --disable_tta
    python benchmarks/nnunet_masks.py --network nnUNet_results/.../nnUNetTrainer__nnUNetPlans__2d \
        --fold 0 --images imagesTs --masks theirs -o masks.json

The first command needs nnunetv2, the second the extra ``nnunet`` of this project. Without
``--disable_tta`` there, give ``--tta`` here. Nothing is trained here; the status is 1 where a mask
agrees in fewer than 99.95% of the voxels.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import SimpleITK
import torch

from lmaunet.data.nnunet_preparation import prepare
from lmaunet.data.nnunet_windows import mirrored, predict
from lmaunet.errors import UserError
from lmaunet.graph.capture import capture
from lmaunet.graph.module import GraphModule
from lmaunet.sources.nnunet import read_nnunet

LEAST = 0.9995
BATCH = 4


def read(path: Path) -> tuple[np.ndarray, tuple[float, ...]]:
    """An image's array, axes as nnU-Net's SimpleITKIO has them, and their spacing."""
    image = SimpleITK.ReadImage(str(path))
    return SimpleITK.GetArrayFromImage(image), image.GetSpacing()[::-1]


def mask_of(network: torch.nn.Module, recipe, files: list[Path], tta: bool) -> np.ndarray:
    """The mask of a case whose channels are files."""
    images, spacings = zip(*map(read, files), strict=True)
    volume = prepare(images, spacings[0], recipe)

    def run(slices: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return network(torch.from_numpy(slices)).numpy()

    net = mirrored(run, recipe.mirror_axes if tta else ())
    labels = [
        volume.labels(predict(volume.images(z, z + 1), recipe.patch_size, net, batch=BATCH))
        for z in range(len(volume))
    ]
    return volume.mask(np.concatenate(labels))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--network", type=Path, required=True, help="the trainer's folder")
    parser.add_argument("--fold")
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--masks", type=Path, required=True, help="those of nnUNetv2_predict")
    parser.add_argument("--tta", action="store_true", help="average over mirrored images")
    parser.add_argument("-o", "--output", type=Path)
    given = parser.parse_args()
    found = read_nnunet(given.network, given.fold)
    recipe = found.recipe
    if recipe.reader != "SimpleITKIO":
        raise UserError(f"images were read by {recipe.reader}; this reads them as SimpleITKIO does")
    graph, weights = capture(found.module, (1, len(recipe.channels), *recipe.patch_size))
    network, rows = GraphModule(graph, weights).eval(), []
    masks = sorted(given.masks.glob("*.nii.gz"))
    if not masks:
        raise UserError(f"{given.masks} has no .nii.gz; give the folder of nnUNetv2_predict")
    for path in masks:
        case = path.name.removesuffix(".nii.gz")
        files = [given.images / f"{case}_{c:04d}.nii.gz" for c in range(len(recipe.channels))]
        theirs, _ = read(path)
        ours = mask_of(network, recipe, files, given.tta)
        differ = int((ours != theirs).sum())
        share = 1 - differ / theirs.size
        classes = [int((theirs == label).sum()) for label in range(len(found.classes))]
        rows.append({
            "case": case, "shape": list(theirs.shape), "voxels": theirs.size, "differ": differ,
            "agreement": share, "voxels_of_class": classes,
        })  # fmt: skip
        print(f"{case}: {differ} of {theirs.size} voxels differ, {share:.4%} agree, {classes}")
    content = {
        "network": found.plan.network, "configuration": found.plan.configuration,
        "tta": given.tta, "mirror_axes": list(recipe.mirror_axes),
        "schemes": [channel.scheme for channel in recipe.channels], "cases": rows,
    }  # fmt: skip
    if given.output:
        given.output.write_text(json.dumps(content, indent=2) + "\n")
    return int(min(row["agreement"] for row in rows) < LEAST)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_status)
