"""A build of a network that nnU-Net trained, for the stored arrays: any function as the network."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import lone_build
import numpy as np
import SimpleITK

from lmaunet.artifacts import Build
from lmaunet.data.nnunet_inference import NnunetPreparation
from lmaunet.data.nnunet_recipe import ChannelRecipe, NnunetRecipe
from lmaunet.deploy.deployment import Interface, write_build
from lmaunet.graph_spec import GraphSpec
from lmaunet.stage import Stage

STORED = Path(__file__).parents[1] / "data" / "stored_nnunet.npz"
NAMES = ("mr", "ct", "rows", "columns", "same")
CLASSES = ("background", "one", "two")


def stored():
    """The arrays that nnunetv2 computed."""
    with np.load(STORED) as file:
        return dict(file)


def recipe_of(arrays, name):
    """Spacing and recipe of a stored case."""
    said = json.loads(str(arrays["said"]))
    _, spacing, transpose, target, patch, schemes, masked, mirror = said["cases"][name]
    channels = tuple(map(ChannelRecipe, schemes, masked, [said["fingerprint"]] * len(schemes)))
    return spacing, NnunetRecipe(
        tuple(patch), tuple(target), tuple(transpose), channels, tuple(mirror or ())
    )


def network(arrays):
    """The network of the stored arrays, in numpy."""

    def run(images):
        height, width = images.shape[2:]
        padded = np.pad(images, [(0, 0), (0, 0), (1, 1), (1, 1)])
        found = arrays["slopes"][:, None, None] * (
            np.arange(height)[:, None] + 2 * np.arange(width)
        ).astype(np.float32)
        for y in range(3):
            for x in range(3):
                part = padded[:, :, y : y + height, x : x + width]
                weights = arrays["weights"][:, : images.shape[1], y, x]
                found = found + np.einsum("kc,nchw->nkhw", weights, part)
        return found.astype(np.float32)

    return run


def interface(recipe, classes=CLASSES, **changes):
    """What such a build takes and gives."""
    spec = GraphSpec("stored", len(recipe.channels), len(classes), recipe.patch_size, "a" * 64)
    ready = NnunetPreparation(recipe, **changes)
    data = {"name": "x", "label_source": "y", "synthetic": False}
    return Interface(
        spec, spec.graph, classes, ready, (None, None, None), data, {"checkpoint": "a"}
    )


def target(run):
    """The target of such a build."""
    return dataclasses.replace(lone_build.target(), run=lambda build, images: run(images))


def make(place, recipe, **changes):
    """Write a build into ``place/build/pixels``."""
    place.mkdir(parents=True, exist_ok=True)
    qcdq = place / "network.qcdq.onnx"
    qcdq.write_bytes(b"exported")

    def work(folder):
        (folder / "model.bin").write_bytes(b"weights")
        build = Build("pixels", folder, folder / "model.bin", ())
        write_build(build, interface(recipe, **changes), qcdq)

    return Stage(place, "build/pixels", {"qcdq": qcdq}, {}).write(work)


def image_in(array, spacing, orientation, angle=0.0):
    """A SimpleITK image whose file has an array's axes, which run as an orientation says."""
    image = SimpleITK.GetImageFromArray(array)
    image.SetSpacing(tuple(float(mm) for mm in reversed(spacing)))
    image.SetOrigin((-31.5, 12.25, 801.0))
    steps = {"L": (1, 0, 0), "R": (-1, 0, 0), "P": (0, 1, 0), "A": (0, -1, 0), "S": (0, 0, 1),
             "I": (0, 0, -1)}  # fmt: skip
    matrix = np.array([steps[letter] for letter in orientation], float).T
    c, s = np.cos(angle), np.sin(angle)
    around = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    image.SetDirection((around @ matrix).ravel().tolist())
    return image
