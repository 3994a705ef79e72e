"""Several images of one patient on one grid: as they lie, resampled, or registered first."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lmaunet.data import modalities
from lmaunet.data.images.volumes import Image
from lmaunet.errors import UserError

if TYPE_CHECKING:
    from lmaunet.data.images.geometry import Geometry

WAYS = ("", "resample", "register")
MOST_UNCOVERED = 0.25
"""Of the first image's volume, that another one may leave out."""
SAID_UNCOVERED = 0.001
NEARLY_MIRRORED = 0.95


@dataclass(frozen=True)
class Fusion:
    """What may be done to images that lie on other grids than the first, and which are missing.

    Args:
        how: empty refuses other grids; ``resample`` brings images onto the first's by where they
            say that they lie; ``register`` moves them onto it first.
        absent: channels that are missing, from 0.
        known: what the network knows of missing modalities.
        say: called with what is being done.
    """

    how: Literal["", "resample", "register"] = ""
    absent: tuple[int, ...] = ()
    known: modalities.Modalities | None = None
    say: Callable[[str], None] = lambda line: None

    def name(self, channel: int) -> str:
        """Return what a missing channel is called."""
        names = self.known.names if self.known else ()
        said = f"image {channel + 1}"
        # a message shows the last part of a path
        own = names[channel].replace("/", "-") if channel < len(names) else ""
        return f"{said} ({own})" if own else said


KEPT = Fusion()


def check_way(how: str) -> None:
    """Raise UserError for a way of fusing that there is not."""
    if how not in WAYS:
        raise UserError(
            f"fuse {how!r}; expected resample or register, or nothing where images lie on one grid"
        )


def fuse(
    images: Sequence[Image | None], names: Sequence[str], fusion: Fusion
) -> tuple[list[Image], list[dict[str, Any]]]:
    """Return an image for each channel on the first one's grid, and what was done to each, as JSON.

    Args:
        images: one for each channel, None where it is missing.
        names: what each is called in messages.
        fusion: what may be done.

    Raises:
        UserError: for another grid that may not be resampled, or a registration that looks wrong.
    """
    at = next(index for index, image in enumerate(images) if image is not None)
    first = images[at]
    assert first is not None
    found: list[Image] = []
    records: list[dict[str, Any]] = []
    for index, (image, name) in enumerate(zip(images, names, strict=True)):
        if image is None:
            made, record = _stand_in(first, fusion), {"how": "missing"}
        elif index == at or (fusion.how != "register" and image.geometry.same_grid(first.geometry)):
            made, record = image, {"how": "as it is"}
        elif fusion.how == "":
            raise UserError(_unlike(name, names[at], image.geometry, first.geometry))
        else:
            made, record = _onto(image, first, name, names[at], fusion)
        found.append(made)
        records.append({"image": None if image is None else name, **record})
    return found, records


def _unlike(name: str, onto: str, own: Geometry, wanted: Geometry) -> str:
    return (
        f"{name} lies on another grid than {onto} (shape {own.shape}, expected {wanted.shape}, or "
        f"another place); resample it onto {Path(onto).name}: --fuse resample does by where both "
        "say that they lie, --fuse register moves it onto it first"
    )


def _stand_in(first: Image, fusion: Fusion) -> Image:
    import numpy as np

    assert fusion.known is not None
    note = f"missing: the network goes without it; {fusion.known.costs(fusion.absent)}"
    nothing = np.broadcast_to(np.float32(0), first.array.shape)
    return Image(nothing, first.geometry, modalities.KIND, (note,))


def _onto(
    image: Image, first: Image, name: str, onto: str, fusion: Fusion
) -> tuple[Image, dict[str, Any]]:
    """Return an image on the first one's grid, with notes, and what was done to it."""
    from lmaunet.data.images.common_grid import resample, sitk_of

    moving, grid = (sitk_of(one.array, one.geometry) for one in (image, first))
    short = Path(onto).name
    record: dict[str, Any] = {"how": "resampled"}
    transform, said = None, [f"resampled onto the grid of {short}"]
    if fusion.how == "register":
        from lmaunet.data.images.registration import register

        done = register(grid, moving, name, onto, fusion.say)
        record = {"how": "registered", "registration": done.to_json()}
        transform = done.transform
        said = [
            f"registered onto {short}: turned by {done.rotation_deg:.1f} degrees and moved by "
            f"{done.translation_mm:.1f} mm (another start ended {done.apart_mm:.1f} mm from there)"
        ]
        if done.mirrored > NEARLY_MIRRORED:
            said.append("it fits as well mirrored: left and right can't be told from it")
    array, uncovered = resample(moving, grid, transform)
    if uncovered > MOST_UNCOVERED:
        raise UserError(
            f"{name} leaves out {100 * uncovered:.0f}% of the volume of {onto}; expected at most "
            f"{100 * MOST_UNCOVERED:g}%; cut {short} to what both show, or register the images"
        )
    if uncovered > SAID_UNCOVERED:
        said.append(
            f"{100 * uncovered:.1f}% of the volume of {short} lies outside of it and has its "
            "least value"
        )
    record["uncovered"] = round(uncovered, 5)
    notes = (*image.notes, "; ".join(said))
    return dataclasses.replace(image, array=array, geometry=first.geometry, notes=notes), record


def absent_of(images: Sequence[Image]) -> tuple[int, ...]:
    """Return which of the images stand in for missing ones."""
    return tuple(i for i, image in enumerate(images) if image.kind == modalities.KIND)


def placed(given: Sequence[Any], absent: Sequence[int]) -> list[Any]:
    """Return what was given in the places of channels that are not missing, None in the others."""
    left = iter(given)
    return [None if i in absent else next(left) for i in range(len(given) + len(absent))]


def described(records: Sequence[Mapping[str, Any]], fusion: Fusion) -> list[dict[str, Any]]:
    """Return the records with the names of the channels, and the scores of those missing."""
    found = []
    for index, record in enumerate(records):
        known = fusion.known
        name = known.names[index] if known else None
        row = {"channel": index + 1, "name": name, **record}
        if record["how"] == "missing" and known is not None:
            single = len(fusion.absent) == 1 and bool(known.missing)
            row["dice"] = {"all": known.dice, "missing": known.missing[index] if single else None}
        found.append(row)
    return found
