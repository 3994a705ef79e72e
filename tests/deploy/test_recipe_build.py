"""Builds of networks that nnU-Net trained: from an image in any axes to nnU-Net's own mask."""

from __future__ import annotations

import numpy as np
import pytest
import recipe_build
import SimpleITK

import lmaunet
from lmaunet.data import nnunet_inference
from lmaunet.deploy import segmenter

ORIENTATIONS = ("LPS", "RAS", "LAS", "PIR", "ASL", "SRP")
# one voxel in thousands lies on a tie of two logits, which float32 rounds either way
MOST = 1


@pytest.fixture(scope="module")
def arrays():
    return recipe_build.stored()


@pytest.fixture
def opened(arrays, tmp_path, monkeypatch):
    """A function that opens the build of a stored case; returns it, images and the known mask."""
    run = recipe_build.network(arrays)
    monkeypatch.setattr(segmenter, "get_target", lambda name: recipe_build.target(run))

    def load(name, orientation="LPS", angle=0.0, **changes):
        spacing, recipe = recipe_build.recipe_of(arrays, name)
        folder = recipe_build.make(tmp_path / "-".join((name, *changes)), recipe, **changes)
        images = [
            recipe_build.image_in(channel, spacing, orientation, angle)
            for channel in arrays[f"{name}.image"]
        ]
        return lmaunet.load(folder), images, arrays[f"{name}.mask"]

    return load


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("name", recipe_build.NAMES)
def test_a_mask_is_nnunets_in_whatever_axes_the_image_is(opened, name, orientation):
    """Cropped, windowed or padded, one or two channels, mirrored where nnU-Net mirrored."""
    seg, images, known = opened(name, orientation, 0.2 if orientation == "RAS" else 0.0)
    mask = seg(images, tta=bool(seg.mirror_axes), batch=3)
    assert mask.IsSameImageGeometryAs(images[0], 0.0, 0.0)
    found = SimpleITK.GetArrayFromImage(mask)
    assert found.dtype == np.uint8 and len(np.unique(found)) > 1
    assert (found != known).sum() <= MOST


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("self.volume.within(self.turn.view(output))", "self.volume.within(output)"),
        ("[turn.view(array) for array in arrays]", "arrays"),
        ("exact_mm(spacing_mm[axis]) for axis in turn.order", "float(mm) for mm in spacing_mm"),
    ],
)
def test_axes_that_are_not_undone_are_noticed(opened, mutant_of, monkeypatch, right, wrong):
    mutant = mutant_of(nnunet_inference, right, wrong)
    caught = 0
    for name, orientation in (("mr", "LAS"), ("ct", "PIR")):
        seg, images, known = opened(name, orientation)
        for part in ("turn_to", "prepare"):
            assert hasattr(mutant, part)
        preparation = seg.deployment.interface.preparation
        wrongly = mutant.NnunetPreparation(preparation.recipe)
        monkeypatch.setattr(
            nnunet_inference.NnunetPreparation,
            "ready",
            lambda own, *given, w=wrongly: w.ready(*given),
        )
        try:
            mask = seg(images, tta=bool(seg.mirror_axes))
            caught += (SimpleITK.GetArrayFromImage(mask) != known).sum() > MOST
        except (ValueError, IndexError):
            caught += 1
        monkeypatch.undo()
        monkeypatch.setattr(
            segmenter, "get_target",
            lambda name: recipe_build.target(recipe_build.network(recipe_build.stored())),
        )  # fmt: skip
    assert caught
