"""A build whose mask shows which voxels it was computed from, and in which orientation.

Its network is one convolution that copies the pixel above and two to the left (in LPS) and compares
it with the levels of its classes: the mask is a coarse copy of the image, moved by one row and two
columns. A voxel from elsewhere, a rescaling that is left out, or slices that were turned before
they went into the network change it, and :func:`expected_labels` says what it must be without any
code of the program.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import nibabel
import numpy as np

CLASSES = 12
SIDE = 64
SPACING_MM = (2.5, 2.0)
"""Of the network, y and x: not square, so that axes that are taken for each other are seen."""
LOW_HU, HIGH_HU, MEAN, STD = -160.0, 240.0, 0.4, 0.3
ROWS, COLUMNS = 1, 2
TOLERANCE = 0.01
"""Spacings that differ by no more are the network's own: nothing is resampled."""


def levels() -> np.ndarray:
    """Return the level of each class in units of the window; irregular, so that none ties."""
    return (np.arange(CLASSES) + 0.5 + 0.13 * np.sin(np.arange(CLASSES) * 2.3)) / CLASSES


def write_model(path: Path) -> Path:
    """Write the network as ONNX: ``(1, 1, 64, 64)`` to ``(1, 12, 64, 64)``."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    centres = (levels() - MEAN) / STD
    weight = np.zeros((CLASSES, 1, 2 * ROWS + 1, 2 * COLUMNS + 1), np.float32)
    weight[:, 0, 0, 0] = 2 * centres
    tensors = {"weight": weight, "bias": (-(centres**2)).astype(np.float32)}
    node = helper.make_node(
        "Conv", ["image", *tensors], ["logits"], pads=[ROWS, COLUMNS, ROWS, COLUMNS]
    )
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, channels, SIDE, SIDE])
        for name, channels in (("image", 1), ("logits", CLASSES))
    ]
    graph = helper.make_graph(
        [node], "levels", ends[:1], ends[1:],
        [numpy_helper.from_array(value, name) for name, value in tensors.items()],
    )  # fmt: skip
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), path)
    return path


def make_build(place: Path) -> Path:
    """Return the folder of a build for ONNX Runtime of this network."""
    from lmaunet.artifacts import Build
    from lmaunet.data.inference import Preparation
    from lmaunet.deploy.deployment import Interface, write_build
    from lmaunet.spec import NetSpec
    from lmaunet.stage import Stage

    spec = NetSpec(
        "levels", (4, 8, 8, 8, 8), states=2, kernels=(3, 3, 3, 3), input_size=(SIDE, SIDE),
        classes=CLASSES,
    )  # fmt: skip
    window = {"kind": "window", "low": LOW_HU, "high": HIGH_HU, "mean": MEAN, "std": STD}
    names = ("background", *(f"level {k}" for k in range(1, CLASSES)))
    data = {"name": "levels", "label_source": "drawn", "synthetic": False}
    interface = Interface(
        spec, "", names, Preparation((SIDE, SIDE), window, SPACING_MM, False),
        (4.0, *SPACING_MM), data, {"checkpoint": "none"},
    )  # fmt: skip
    place.mkdir(parents=True, exist_ok=True)
    source = write_model(place / "network.qcdq.onnx")

    def work(folder: Path) -> None:
        shipped = write_model(folder / "model.onnx")
        write_build(Build("ort", folder, shipped, ()), interface, source)

    return Stage(place, "build/ort", {"qcdq": source}, {}).write(work)


TINY, TINY_CLASSES = "tiny", 4


def register_tiny() -> None:
    """Let this process and its forks know the spec ``tiny``, which trains in seconds."""
    from lmaunet import spec

    spec.SPECS[TINY] = spec.NetSpec(
        TINY, (4, 8, 8, 8, 8), states=2, kernels=(3, 3, 3, 3), input_size=(32, 32),
        classes=TINY_CLASSES,
    )  # fmt: skip


def stages(run: Path, data: Path) -> list[list[str]]:
    """Return the command lines that make a whole run of the tiny network."""
    where = ["--run", str(run)]
    return [
        ["train", "--spec", TINY, "--data", str(data), "--epochs", "1", *where],
        [
            "qat",
            "--ckpt",
            str(run / "train" / "model.pt"),
            "--data",
            str(data),
            "--epochs",
            "1",
            *where,
        ],
        ["export", *where],
        ["build", "--target", "ort", "--no-operators", *where],
        ["measure", *where],
        ["report", *where],
    ]


def orientations(affine: np.ndarray) -> list[np.ndarray]:
    """Return the turns to LPS that are right for an affine to RAS; several where two are as near.

    A turn is nibabel's: for each axis of the image the axis of the patient and the sign.
    """
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    near = np.abs(directions)
    best, found = -1.0, []
    for order in itertools.permutations(range(3)):
        total = sum(near[axis, i] for i, axis in enumerate(order))
        turn = np.array([[axis, np.sign(directions[axis, i]) or 1] for i, axis in enumerate(order)])
        found.append((total, turn))
        best = max(best, total)
    # two rules are in use, the largest sum and the largest component first; they part only for
    # oblique images, for which 5% of the sum are allowed
    turns = [turn for total, turn in found if total > 0.95 * best]
    for turn in turns:
        turn[:, 1] *= np.where(turn[:, 0] < 2, -1, 1)
    return turns


def turned(array: np.ndarray, turn: np.ndarray) -> np.ndarray:
    """Return an array ``(i, j, k)`` along the patient's axes (x, y, z of LPS)."""
    return nibabel.orientations.apply_orientation(array, turn)


def turned_back(array: np.ndarray, turn: np.ndarray) -> np.ndarray:
    """Return an array along the patient's axes in the index order that it came from."""
    order = turn[:, 0].astype(int)
    back = array.transpose(order)
    return np.flip(back, tuple(i for i in range(3) if turn[i, 1] < 0))


def spacing_of(affine: np.ndarray, turn: np.ndarray) -> np.ndarray:
    """Return the voxel sizes along the patient's axes, x, y, z."""
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    return sizes[np.argsort(turn[:, 0])]


def is_plain(shape: tuple[int, ...], spacing: np.ndarray) -> bool:
    """Tell whether slices (x, y first) go through the network as they are, in one window."""
    wanted = np.array([SPACING_MM[1], SPACING_MM[0]])
    as_it_is = bool((np.abs(spacing[:2] / wanted - 1) < 0.9 * TOLERANCE).all())
    return as_it_is and shape[0] <= SIDE - 2 * COLUMNS and shape[1] <= SIDE - 2 * ROWS


def expected_labels(voxels: np.ndarray) -> np.ndarray:
    """Return the classes ``(x, y, z)`` of voxels in LPS that go through the network as they are."""
    unit = np.clip((voxels.astype(np.float64) - LOW_HU) / (HIGH_HU - LOW_HU), 0, 1)
    moved = np.zeros_like(unit)  # around the image is air, the lowest of the window
    moved[COLUMNS:, ROWS:] = unit[: -COLUMNS or None, : -ROWS or None]
    return np.abs(moved[..., None] - levels()).argmin(-1)
