"""Masks of a network of nnU-Net's, computed in float as a build computes them, beside its own.

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
from typing import Any

import torch

from lmaunet.artifacts import Build
from lmaunet.data.images.volumes import read_labels
from lmaunet.data.inference import prepare_volume
from lmaunet.data.nnunet_inference import NnunetPreparation
from lmaunet.data.nnunet_recipe import NnunetRecipe
from lmaunet.deploy.defaults import INFER_BATCH, OVERLAP
from lmaunet.deploy.segmenter import Network, Timer, segment
from lmaunet.deploy.targets import Target
from lmaunet.errors import UserError
from lmaunet.graph.capture import capture
from lmaunet.graph.module import GraphModule
from lmaunet.sources.nnunet import read_nnunet

LEAST = 0.9995


def float_network(module: torch.nn.Module, checkpoint: Path, classes: int) -> Network:
    """A float network as the program calls that of a build."""

    def run(build: Build, images):
        with torch.no_grad():
            return module(torch.from_numpy(images)).numpy()

    nothing: Any = None  # this target builds and measures nothing
    target = Target("float", "", list, nothing, run, nothing, lambda build: "float32 in torch")
    return Network(target, Build("float", checkpoint.parent, checkpoint, ()), classes, Timer())


def mask_of(network: Network, recipe: NnunetRecipe, files: list[Path], tta: bool):
    """The mask of a case whose channels are files, as a build makes it, in LPS."""
    volume = prepare_volume(files, NnunetPreparation(recipe), len(files))
    return segment(
        volume, network, overlap=OVERLAP, batch=INFER_BATCH, say=lambda share, line: None,
        mirror_axes=recipe.mirror_axes if tta else (),
    )  # fmt: skip


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
    graph, weights = capture(found.module, (1, len(recipe.channels), *recipe.patch_size))
    module, rows = GraphModule(graph, weights).eval(), []
    masks = sorted(given.masks.glob("*.nii.gz"))
    if not masks:
        raise UserError(f"{given.masks} has no .nii.gz; give the folder of nnUNetv2_predict")
    for path in masks:
        case = path.name.removesuffix(".nii.gz")
        files = [given.images / f"{case}_{c:04d}.nii.gz" for c in range(len(recipe.channels))]
        theirs, _ = read_labels(path)
        network = float_network(module, found.checkpoint, len(found.classes))
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
