"""Labelled slices as nnU-Net prepares them, for training, calibration and scores.

Each volume is turned to the axes in which nnU-Net reads its file, cropped, normalised and resampled
as its recipe says; labels go along by the nearest pixel. A slice below the patch is padded around
its centre as in prediction; of larger ones a window of nnU-Net's is taken, the same for all slices
of a case.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lmaunet.data import normalization as norm
from lmaunet.data.chosen import Chosen, check_memory, choose
from lmaunet.data.dataset import SliceSet
from lmaunet.data.images.geometry import AxisTurn, turn_to
from lmaunet.data.images.intensity import Recorder
from lmaunet.data.nnunet_inference import KIND, kinds_of, reader_spacing
from lmaunet.data.nnunet_preparation import NnunetVolume, prepare
from lmaunet.data.nnunet_recipe import NnunetRecipe
from lmaunet.data.nnunet_resampling import resize_axis
from lmaunet.data.nnunet_windows import padding, window_starts
from lmaunet.data.sliced import Sliced, Spacing
from lmaunet.data.source import Source, Volume
from lmaunet.errors import UserError

SIDES = ("train", "val")


@dataclass(frozen=True, eq=False)
class _Turned:
    """A volume in the axes in which nnU-Net reads its file, and what is taken of it.

    ``spacing_mm`` is of these axes. Slices are counted along the image's axis in LPS: ``backwards``
    says whether those of the network run against it.
    """

    volume: Volume
    axes: str
    turn: AxisTurn
    spacing_mm: tuple[float, ...]
    backwards: bool
    chosen: Chosen


class _Gathered:
    """The slices of a side, in arrays for all of them."""

    def __init__(self, count: int, channels: int, patch: tuple[int, int]) -> None:
        self.images = np.empty((count, channels, *patch), np.float32)
        self.labels = np.empty((count, *patch), np.uint8)
        self.cases: list[str] = []
        self.z: list[int] = []

    def add(self, image: np.ndarray, labels: np.ndarray, case: str, z: int) -> None:
        """Add a slice."""
        self.images[len(self.z)], self.labels[len(self.z)] = image, labels
        self.cases.append(case)
        self.z.append(z)

    def whole(self) -> SliceSet:
        """Return what was added."""
        count = len(self.z)
        return SliceSet(
            self.images[:count], self.labels[:count], np.array(self.cases, str), np.array(self.z)
        )


def nnunet_slices(source: Source, recipe: NnunetRecipe) -> Sliced:
    """Return the slices of a source as nnU-Net prepares them.

    Raises:
        UserError: for volumes without a spacing, another number of channels than the recipe's, or
            values that do not fit it.
    """
    if len(source.channels) != len(recipe.channels):
        raise UserError(
            f"{source.name} has {len(source.channels)} channel(s) ({', '.join(source.channels)}), "
            f"the network was trained on {len(recipe.channels)}; give data with these, in the "
            "order of its dataset.json"
        )
    turned = [_turned(volume, recipe) for volume in source.volumes]
    counts = {side: sum(len(getattr(t.chosen, side)) for t in turned) for side in SIDES}
    check_memory(sum(counts.values()), len(source.channels), recipe.patch_size, source.name)
    gathered = {
        side: _Gathered(count, len(source.channels), recipe.patch_size)
        for side, count in counts.items()
    }
    spacings: dict[str, Spacing] = {}
    recorder, lost = Recorder(norm.of_channels(kinds_of(recipe))), Counter[str]()
    for one in turned:
        before = len(gathered["val"].z)
        spacing = _gather(one, recipe, gathered, recorder, lost)
        if len(gathered["val"].z) > before:
            spacings[one.volume.case] = spacing
    for side in SIDES:
        if not gathered[side].z:
            raise UserError(f"{source.name}: no slice is left to {side}; give more cases")
    train, val = (gathered[side].whole() for side in SIDES)
    return Sliced(
        train, val, spacings, tuple(one.chosen.sentence for one in turned),
        {
            "kind": KIND,
            "schemes": [channel.scheme for channel in recipe.channels],
            "masked": [channel.masked for channel in recipe.channels],
        },
        recipe.spacing_mm, False, recorder.record(), _notes(recipe, lost),
        tuple(sorted({one.axes for one in turned if len(one.chosen.train)})),
    )  # fmt: skip


def _turned(volume: Volume, recipe: NnunetRecipe) -> _Turned:
    if not np.isfinite(volume.spacing_mm).all():
        raise UserError(
            f"case {volume.case!r} has no spacing, and the network's images are resampled to "
            f"{recipe.spacing_mm[0]:g}x{recipe.spacing_mm[1]:g} mm; give files that say it, such "
            "as NIfTI"
        )
    own, dimensions = volume.axes()
    axes = recipe.read_in(own)
    turn = turn_to(axes)
    backwards = recipe.transpose[0] in turn.backwards
    sections = turn.view(volume.labels).transpose(recipe.transpose)
    return _Turned(
        volume, axes, turn, reader_spacing(volume.spacing_mm, dimensions, turn), backwards,
        choose(volume, sections[::-1] if backwards else sections),
    )  # fmt: skip


def _gather(
    one: _Turned, recipe: NnunetRecipe, gathered: dict[str, _Gathered], recorder: Recorder,
    lost: Counter[str],
) -> Spacing:  # fmt: skip
    """Add the slices of a volume that train and that validate; return their spacing.

    ``lost`` counts the labelled pixels of the slices that were taken, and those that none shows.
    """
    volume = one.volume
    arrays = [one.turn.view(read()) for read in volume.channels]
    try:
        ready = prepare(arrays, one.spacing_mm, recipe)
    except UserError as error:
        raise UserError(f"case {volume.case!r}: {error}") from error
    first, last = ready.box[0].start, ready.box[0].stop
    labels = one.turn.view(volume.labels)
    sections, inside = labels.transpose(recipe.transpose), ready.within(labels)
    drawn, places = {}, {}
    for side in SIDES:
        picked = getattr(one.chosen, side)
        at = len(sections) - 1 - picked if one.backwards else picked
        if side == "train" and len(at):
            for index, array in enumerate(arrays):
                recorder.add(index, array.transpose(recipe.transpose)[at])
        # a slice of nothing but zeros is cropped off: the network never sees it
        seen = (at >= first) & (at < last)
        places[side] = at[seen] - first, picked[seen]
        kept = inside[places[side][0]]
        lost["labelled"] += int(np.count_nonzero(sections[at]))
        lost["cropped"] += int(np.count_nonzero(sections[at])) - int(np.count_nonzero(kept))
        drawn[side] = _resampled(kept, ready.forth.wanted)
    window = _window(list(drawn.values()), recipe.patch_size)
    for side in SIDES:
        placed = _placed(drawn[side], window, recipe.patch_size)
        lost["drawn"] += int(np.count_nonzero(drawn[side]))
        lost["beside"] += int(np.count_nonzero(drawn[side])) - int(np.count_nonzero(placed))
        for truth, at, z in zip(placed, *places[side], strict=True):
            (image,) = ready.images(int(at), int(at) + 1)
            image = _placed(image, window, recipe.patch_size)
            gathered[side].add(image, truth, volume.case, int(z))
    lost["larger"] += any(n > m for n, m in zip(ready.forth.wanted, recipe.patch_size, strict=True))
    return _spacing(one, ready, recipe)


def _spacing(one: _Turned, ready: NnunetVolume, recipe: NnunetRecipe) -> Spacing:
    """Return what a voxel of the slices measures: slices, rows, columns, in mm."""
    between, *plane = (one.spacing_mm[axis] for axis in recipe.transpose)
    row, column = (
        mm * have / now
        for mm, have, now in zip(plane, ready.forth.shape, ready.forth.wanted, strict=True)
    )
    return between, row, column


def _resampled(labels: np.ndarray, wanted: tuple[int, int]) -> np.ndarray:
    """Return labels ``(n, y, x)`` of another height and width, each of the nearest pixel."""
    for axis, side in enumerate(wanted, 1):
        if labels.shape[axis] != side:
            labels = resize_axis(labels, axis, side, 0)
    return labels


def _window(labels: Sequence[np.ndarray], patch: tuple[int, int]) -> tuple[int, int]:
    """Return where the window of nnU-Net's begins that holds most labelled pixels of a case.

    Args:
        labels: sets of slices ``(n, H, W)``.
        patch: the window's height and width; 0 along a side that is not longer.
    """
    shown = sum(np.count_nonzero(part, axis=0) for part in labels)
    starts = [
        window_starts(max(have, want), want)
        for have, want in zip(labels[0].shape[1:], patch, strict=True)
    ]
    return max(
        itertools.product(*starts),
        key=lambda start: np.sum(shown[start[0] :, start[1] :][: patch[0], : patch[1]]),
    )  # type: ignore[return-value]


def _placed(slices: np.ndarray, window: tuple[int, int], patch: tuple[int, int]) -> np.ndarray:
    """Return ``(..., H, W)`` in the patch: cut to the window, and zeros around the centre."""
    cut = slices[..., window[0] :, window[1] :][..., : patch[0], : patch[1]]
    around = [padding(have, want) for have, want in zip(cut.shape[-2:], patch, strict=True)]
    return np.pad(cut, [(0, 0)] * (slices.ndim - 2) + around)


def _notes(recipe: NnunetRecipe, lost: Counter[str]) -> tuple[str, ...]:
    schemes = ", ".join(dict.fromkeys(channel.scheme for channel in recipe.channels))
    height, width = recipe.patch_size
    notes = [
        f"images are prepared as nnU-Net's plan says: {schemes}, "
        f"{recipe.spacing_mm[0]:.4g}x{recipe.spacing_mm[1]:.4g} mm"
    ]
    if lost["larger"]:
        notes.append(
            f"{lost['larger']} case(s) have slices larger than the network's {height}x{width}: of "
            "each the window with most labelled pixels is taken, and "
            f"{_share(lost['beside'], lost['drawn'])} of all labelled pixels lie beside it, which "
            "no score counts"
        )
    if lost["cropped"]:
        notes.append(
            f"{_share(lost['cropped'], lost['labelled'])} of the labelled pixels lie outside of "
            "what is not 0 in the image, which nnU-Net crops off: no score counts them"
        )
    return tuple(notes)


def _share(part: int, whole: int) -> str:
    return f"{100 * part / max(1, whole):.1f}%"
