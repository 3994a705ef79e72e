"""From volumes as read to a :class:`Dataset`: choose slices, frame, normalise."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lmaunet.data import normalization as norm
from lmaunet.data.chosen import Chosen, check_memory, choose
from lmaunet.data.dataset import Dataset, SliceSet
from lmaunet.data.framing import SPACING_TOLERANCE, Framing, zoom_to
from lmaunet.data.images.intensity import Recorder
from lmaunet.data.nnunet_recipe import NnunetRecipe
from lmaunet.data.nnunet_slices import nnunet_slices
from lmaunet.data.patients import alone
from lmaunet.data.sliced import Sliced, common_spacing
from lmaunet.data.source import Source, Volume
from lmaunet.data.split import GAP
from lmaunet.errors import UserError

CROP_LOSS_LIMIT = 0.1


def assemble(
    source: Source,
    *,
    size: tuple[int, int],
    classes: int | None = None,
    spacing_mm: float | None = None,
    fit: bool | None = None,
    recipe: NnunetRecipe | None = None,
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
    if recipe is None:
        made = _own_slices(source, size, spacing_mm, fit)
    else:
        made = nnunet_slices(source, recipe)
    notes, spacings = [*source.notes, *made.notes], list(made.spacings.values())
    spacing = common_spacing(spacings)
    if np.isnan(spacing[1:]).any() and np.isfinite(spacings).all():
        notes.append(
            "cases that validate differ in in-plane spacing; distances in mm are by each case's own"
        )
    for name, side in (("training", made.train), ("held-out", made.val)):
        absent = sorted(set(range(1, len(source.classes))) - set(np.unique(side.labels).tolist()))
        if absent:
            notes.append(f"no {name} slice shows {', '.join(source.classes[i] for i in absent)}")
    patients = source.patients or alone([v.case for v in source.volumes])
    return Dataset(
        name=source.name,
        label_source=source.label_source,
        classes=source.classes,
        spacing_mm=spacing,
        case_spacing_mm=made.spacings,
        train=made.train,
        val=made.val,
        split=" ".join(s for s in (source.split, *made.sentences) if s),
        synthetic=source.synthetic,
        normalization=made.normalization,
        layout=source.layout,
        gap=GAP if any(v.role == "blocks" for v in source.volumes) else 0,
        notes=tuple(notes),
        channels=source.channels,
        patients={v.case: patients.of[v.case] for v in source.volumes},
        told_apart=patients.how,
        resampled_mm=made.resampled_mm,
        fit=made.fit,
        intensity=made.intensity,
        recipe=recipe,
        axes=made.axes,
    )


def _own_slices(
    source: Source, size: tuple[int, int], spacing_mm: float | None, fit: bool | None
) -> Sliced:
    """Return the slices of a source as this program prepares them for its networks."""
    notes: list[str] = []
    target_mm = _target_spacing(source.volumes, spacing_mm, notes)
    fit = source.fit if fit is None else fit
    chosen = [choose(volume, volume.labels) for volume in source.volumes]
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
    normalization = norm.with_statistics(source.normalization, train.images)
    for side in (train, val):
        for index in range(len(source.channels)):
            images = side.images[:, index]
            images[:] = norm.standardize(images, norm.channel(normalization, index))
    return Sliced(
        train, val, spacings, tuple(c.sentence for c in chosen), normalization, target_mm, fit,
        recorder.record(), tuple(notes),
    )  # fmt: skip


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
    chosen: Sequence[Chosen],
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
    chosen: Sequence[Chosen],
    size: tuple[int, int],
    target_mm: tuple[float, float] | None,
    fit: bool,
) -> tuple[SliceSet, SliceSet, dict[str, tuple[float, float, float]]]:
    """Return the framed slices before standardization, and the spacing of each case of val."""
    counts = {side: sum(len(getattr(c, side)) for c in chosen) for side in ("train", "val")}
    for side, count in counts.items():
        if count == 0:
            raise UserError(f"{source.name}: no slice is left to {side}; give more cases")
    check_memory(sum(counts.values()), len(source.channels), size, source.name)
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
