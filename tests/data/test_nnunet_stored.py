"""nnU-Net's preparation held to what nnunetv2 computed (benchmarks/nnunet_arrays.py wrote it)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from lmaunet.data import nnunet_preparation, nnunet_windows
from lmaunet.data.nnunet_preparation import prepare
from lmaunet.data.nnunet_recipe import ChannelRecipe, NnunetRecipe
from lmaunet.data.nnunet_windows import mirrored, predict

NAMES = ("mr", "ct", "rows", "columns", "same")


@pytest.fixture(scope="module")
def stored():
    with np.load(Path(__file__).with_name("stored_nnunet.npz")) as file:
        return dict(file)


def recipe_of(stored, name):
    said = json.loads(str(stored["said"]))
    assert tuple(said["cases"]) == NAMES
    _, spacing, transpose, target, patch, schemes, masked, mirror = said["cases"][name]
    channels = tuple(map(ChannelRecipe, schemes, masked, [said["fingerprint"]] * len(schemes)))
    recipe = NnunetRecipe(
        tuple(patch), tuple(target), tuple(transpose), channels, tuple(mirror or ())
    )
    return spacing, NnunetRecipe.from_json(json.loads(json.dumps(recipe.to_json())))


def network(stored):
    """The network of the stored arrays, in numpy."""

    def run(images):
        height, width = images.shape[2:]
        padded = np.pad(images, [(0, 0), (0, 0), (1, 1), (1, 1)])
        found = stored["slopes"][:, None, None] * (
            np.arange(height)[:, None] + 2 * np.arange(width)
        ).astype(np.float32)
        for y in range(3):
            for x in range(3):
                part = padded[:, :, y : y + height, x : x + width]
                weights = stored["weights"][:, : images.shape[1], y, x]
                found = found + np.einsum("kc,nchw->nkhw", weights, part)
        return found.astype(np.float32)

    return run


def both(stored, name, module=nnunet_preparation, windows=nnunet_windows):
    """The prepared slices, the logits of stored slices, and the mask of stored logits."""
    spacing, recipe = recipe_of(stored, name)
    image = stored[f"{name}.image"].astype(np.float32)
    volume = module.prepare(list(image), spacing, recipe)
    images = np.concatenate([volume.images(at, at + 1) for at in range(len(volume))])
    run = windows.mirrored(network(stored), recipe.mirror_axes)
    given = np.ascontiguousarray(stored[f"{name}.ready"].swapaxes(0, 1))
    logits = windows.predict(given, recipe.patch_size, run, batch=3)
    mask = volume.mask(volume.labels(stored[f"{name}.logits"].swapaxes(0, 1)))
    return images, logits, mask


@pytest.mark.parametrize("name", NAMES)
def test_every_step_is_nnunets(stored, name):
    images, logits, mask = both(stored, name)
    ready, known = stored[f"{name}.ready"].swapaxes(0, 1), stored[f"{name}.logits"].swapaxes(0, 1)
    assert images.dtype == np.float32 and images.shape == ready.shape
    assert np.abs(images - ready).max() <= 1e-5
    assert logits.dtype == known.dtype == np.float16 and logits.shape == known.shape
    # float32's rounding of a convolution, at a step of half precision
    assert np.abs(logits.astype(float) - known).max() <= np.abs(known.astype(float)).max() * 2**-9
    assert (logits != known).mean() < 0.02
    assert mask.shape == stored[f"{name}.image"].shape[1:]
    assert np.array_equal(mask, stored[f"{name}.mask"]) and len(np.unique(mask)) > 1


@pytest.mark.parametrize("name", NAMES)
def test_from_the_image_to_the_mask(stored, name):
    spacing, recipe = recipe_of(stored, name)
    volume = prepare(list(stored[f"{name}.image"]), spacing, recipe)
    run = mirrored(network(stored), recipe.mirror_axes)
    labels = np.concatenate([
        volume.labels(predict(volume.images(at, at + 1), recipe.patch_size, run))
        for at in range(len(volume))
    ])  # fmt: skip
    assert (volume.mask(labels) != stored[f"{name}.mask"]).sum() <= 1


@pytest.mark.parametrize(
    ("module", "right", "wrong", "name"),
    [
        (nnunet_preparation, "how.force)", "False)", "mr"),
        (nnunet_preparation, "if self.how.order < 3 or self.apart == 0:", "if True:", "rows"),
        (
            nnunet_preparation,
            "self.wanted[axis], self.how.order_apart",
            "self.wanted[axis], 1",
            "columns",
        ),
        (nnunet_preparation, "filled_mask(volumes)[box] if masked", "None if masked", "mr"),
        (
            nnunet_preparation,  # normalised after it was resampled
            "self.forth(self._normalised(channel, at), known)",
            "self.normalisers[channel](self.forth(self.channels[channel][at]))",
            "ct",
        ),
        (nnunet_windows, "side // 2\n", "(side - 1) / 2\n", "ct"),
        (nnunet_windows, "(len(flips) + 1)", "len(flips)", "mr"),
    ],
)
def test_a_mistake_is_noticed(stored, mutant_of, module, right, wrong, name):
    mutant = mutant_of(module, right, wrong)
    changed = {"module" if module is nnunet_preparation else "windows": mutant}
    assert any(
        one.shape != other.shape or np.abs(one.astype(float) - other).max() > 1e-3
        for one, other in zip(both(stored, name, **changed), both(stored, name), strict=True)
    )
