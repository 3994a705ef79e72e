"""From volumes as read to a :class:`Dataset`: choose slices, frame, normalise."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lmaunet.data import normalization as norm
from lmaunet.data.dataset import Dataset, SliceSet
from lmaunet.data.framing import SPACING_TOLERANCE, Framing, zoom_to
from lmaunet.data.images.intensity import Recorder
from lmaunet.data.patients import alone
from lmaunet.data.source import Source, Volume
from lmaunet.data.split import GAP, split_by_blocks, useful_slices
from lmaunet.errors import UserError

CROP_LOSS_LIMIT = 0.1


def assemble(
    source: Source,
    *,
    size: tuple[int, int],
    classes: int | None = None,
    spacing_mm: float | None = None,
    fit: bool | None = None,
) -> Dataset:
    """Return the dataset of a source; arguments and errors as for ``loaders.load``."""
    if classes is not None and classes != len(source.classes):
        raise UserError(
            f"{source.name} has {len(source.classes)} classes ({', '.join(source.classes)}) but "
            f"the network has {classes}; give a network of {len(source.classes)} classes or "
            "another class map"
        )
    if len(size) != 2 or min(size) < 1:
        raise UserError(f"size={size}; give a positive height and width")
    notes = list(source.notes)
    target_mm = _target_spacing(source.volumes, spacing_mm, notes)
    fit = source.fit if fit is None else fit
    chosen = [_choose(volume) for volume in source.volumes]
    split = " ".join(s for s in (source.split, *(c.sentence for c in chosen)) if s)
    if fit is None:
        lost = _crop_loss(source.volumes, chosen, size, target_mm)
        fit = lost > CROP_LOSS_LIMIT
        if fit:
            notes.append(
                f"slices are shrunk to fit {size[0]}x{size[1]}: a centre crop would lose "
                f"{100 * lost:.0f}% of the labelled pixels"
            )
        elif lost > 0:
            notes.append(
                f"the centre crop to {size[0]}x{size[1]} loses {100 * lost:.1f}% of the labelled "
                "pixels, which no score counts"
            )
    recorder = Recorder(source.normalization)
    watched = recorder.watch(source, [c.train for c in chosen])
    train, val, spacings = _slices(watched, chosen, size, target_mm, fit)
    spacing = _common(list(spacings.values()))
    if np.isnan(spacing[1:]).any() and np.isfinite(list(spacings.values())).all():
        notes.append(
            "cases that validate differ in in-plane spacing; distances in mm are by each case's own"
        )
    for name, side in (("training", train), ("held-out", val)):
        absent = sorted(set(range(1, len(source.classes))) - set(np.unique(side.labels).tolist()))
        if absent:
            notes.append(f"no {name} slice shows {', '.join(source.classes[i] for i in absent)}")
    normalization = norm.with_statistics(source.normalization, train.images)
    for side in (train, val):
        for index in range(len(source.channels)):
            images = side.images[:, index]
            images[:] = norm.standardize(images, norm.channel(normalization, index))
    patients = source.patients or alone([v.case for v in source.volumes])
    return Dataset(
        name=source.name,
        label_source=source.label_source,
        classes=source.classes,
        spacing_mm=spacing,
        case_spacing_mm=spacings,
        train=train,
        val=val,
        split=split,
        synthetic=source.synthetic,
        normalization=normalization,
        layout=source.layout,
        gap=GAP if any(v.role == "blocks" for v in source.volumes) else 0,
        notes=tuple(notes),
        channels=source.channels,
        patients={v.case: patients.of[v.case] for v in source.volumes},
        told_apart=patients.how,
        resampled_mm=target_mm,
        fit=fit,
        intensity=recorder.record(),
    )


@dataclass(frozen=True, eq=False)
class _Chosen:
    train: np.ndarray
    val: np.ndarray
    sentence: str = ""


def _choose(volume: Volume) -> _Chosen:
    """Return the positions of a volume's slices that train and that validate."""
    nothing = np.zeros(0, np.int64)
    pixels = np.stack([np.bincount(s.ravel(), minlength=256) for s in volume.labels])
    if volume.role == "blocks":
        try:
            split = split_by_blocks(pixels)
        except UserError as error:
            raise UserError(f"{volume.case}: {error}") from error
        return _Chosen(split.train, split.val, f"{volume.case}: {split.sentence}.")
    kept = np.arange(len(pixels)) if volume.keep_all else useful_slices(pixels)
    return _Chosen(kept, nothing) if volume.role == "train" else _Chosen(nothing, kept)


def _target_spacing(
    volumes: Sequence[Volume], asked: float | None, notes: list[str]
) -> tuple[float, float] | None:
    """Return the in-plane spacing (y, x) in mm to resample to, or None to leave all as it is."""
    known = np.array([v.spacing_mm[1:] for v in volumes])
    if np.isnan(known).any():
        if asked is not None:
            raise UserError(
                "spacing_mm was given but the files hold no spacing; leave it out, or use fit"
            )
        return None
    if asked is not None:
        return (asked, asked)
    # A network learns organs at one scale, so cases of another spacing are brought to the
    # one that validates, which is therefore scored on its own grid where it is alone.
    first = next((i for i, v in enumerate(volumes) if v.role != "train"), 0)
    wanted = known[first]
    if (np.abs(known / wanted - 1) > SPACING_TOLERANCE).any():
        notes.append(
            f"in-plane spacings differ; all are resampled to {wanted[0]:g}x{wanted[1]:g} mm"
        )
    return (float(wanted[0]), float(wanted[1]))


def _framing(
    volume: Volume, size: tuple[int, int], target_mm: tuple[float, float] | None, fit: bool
) -> Framing:
    zoom = zoom_to(volume.spacing_mm[1:], target_mm)
    height, width = volume.labels.shape[1:]
    return Framing.of((height, width), size, zoom=zoom, fit=fit)


def _crop_loss(
    volumes: Sequence[Volume],
    chosen: Sequence[_Chosen],
    size: tuple[int, int],
    target_mm: tuple[float, float] | None,
) -> float:
    """Return the share of labelled pixels that a centre crop would cut off."""
    kept = total = 0.0
    for volume, choice in zip(volumes, chosen, strict=True):
        labels = volume.labels[np.concatenate([choice.train, choice.val])]
        framing = _framing(volume, size, target_mm, fit=False)
        total += float(np.count_nonzero(labels))
        rows, columns = (
            _inside(have, scaled, want)
            for have, scaled, want in zip(framing.shape, framing.scaled, size, strict=True)
        )
        kept += float(np.count_nonzero(labels[:, rows][:, :, columns]))
    return 1 - kept / total if total else 0.0


def _inside(have: int, scaled: int, want: int) -> slice:
    """Return the input rows (or columns) that stay when ``scaled`` is cropped to ``want``."""
    # The same division of the surplus as in framing: the odd one is cut at the end.
    surplus = max(0, scaled - want)
    return slice(surplus // 2 * have // scaled, have - (surplus - surplus // 2) * have // scaled)


def _slices(
    source: Source,
    chosen: Sequence[_Chosen],
    size: tuple[int, int],
    target_mm: tuple[float, float] | None,
    fit: bool,
) -> tuple[SliceSet, SliceSet, dict[str, tuple[float, float, float]]]:
    """Return the framed slices before standardization, and the spacing of each case of val."""
    counts = {side: sum(len(getattr(c, side)) for c in chosen) for side in ("train", "val")}
    for side, count in counts.items():
        if count == 0:
            raise UserError(f"{source.name}: no slice is left to {side}; give more cases")
    _check_memory(sum(counts.values()), len(source.channels), size, source.name)
    images, labels = (
        {side: np.empty((count, *shape), kind) for side, count in counts.items()}
        for shape, kind in (((len(source.channels), *size), np.float32), (size, np.uint8))
    )
    names: dict[str, list[np.ndarray]] = {"train": [], "val": []}
    numbers: dict[str, list[np.ndarray]] = {"train": [], "val": []}
    spacings: dict[str, tuple[float, float, float]] = {}
    filled = dict.fromkeys(counts, 0)
    for volume, choice in zip(source.volumes, chosen, strict=True):
        framing = _framing(volume, size, target_mm, fit)
        z = np.arange(len(volume.labels)) if volume.z is None else volume.z
        places = {}
        framed = framing.labels(volume.labels)
        for side, picked in (("train", choice.train), ("val", choice.val)):
            places[side] = slice(filled[side], filled[side] + len(picked)), picked
            filled[side] += len(picked)
            labels[side][places[side][0]] = framed[picked]
            names[side].append(np.full(len(picked), volume.case, dtype=object))
            numbers[side].append(z[picked])
        for index, read in enumerate(volume.channels):
            image = read()
            kind = norm.bind(norm.channel(source.normalization, index), image)
            unit = norm.to_unit(image, kind)
            framed = framing.images(unit, norm.fill(unit, kind))
            for side, (place, picked) in places.items():
                images[side][place, index] = framed[picked]
        if len(choice.val):
            spacings[volume.case] = (
                volume.spacing_mm[0],
                volume.spacing_mm[1] / framing.shrink[0],
                volume.spacing_mm[2] / framing.shrink[1],
            )
    train, val = (
        SliceSet(
            images[side],
            labels[side],
            np.concatenate(names[side]).astype(str),
            np.concatenate(numbers[side]),
        )
        for side in counts
    )
    return train, val, spacings


def _check_memory(slices: int, channels: int, size: tuple[int, int], name: str) -> None:
    """Raise UserError where the slices alone would not fit into the machine's memory."""
    needed = slices * channels * size[0] * size[1] * np.dtype(np.float32).itemsize
    try:
        there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return
    if needed > there:
        raise UserError(
            f"{name}: {slices} slices of {channels}x{size[0]}x{size[1]} would run out of memory "
            f"({needed / 2**30:.1f} GiB, the machine has {there / 2**30:.1f}); give fewer cases or "
            "a network of a smaller --input-size"
        )


def _common(spacings: Sequence[tuple[float, float, float]]) -> tuple[float, float, float]:
    """Return the spacing that all have, NaN along an axis where they differ or one is unknown."""
    table = np.array(spacings)
    same = (np.abs(table / table[0] - 1) <= SPACING_TOLERANCE).all(0)
    z, y, x = np.where(same, table[0], np.nan).tolist()
    return z, y, x
