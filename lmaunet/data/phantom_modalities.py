"""Synthetic patients in several modalities: the same ellipsoids, drawn with other values.

Each modality is drawn on a grid of its own, where a known rigid motion puts it: nothing is
interpolated, so that what a registration finds can be compared with what is true. They are drawn,
not taken: nothing that is measured on them says anything about patients.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lmaunet.data.phantom import BODY, Ellipsoid, cover, vary

if TYPE_CHECKING:
    import numpy as np

ABDOMEN: Mapping[str, Mapping[str, float]] = {
    "CT": {part.name: part.hu for part in BODY},
    "MR": {
        "fat": 800, "muscle": 250, "bowel fat": 760, "right lung": 40, "left lung": 40,
        "spine": 430, "pelvis right": 340, "pelvis left": 340, "bowel": 300, "bowel gas": 10,
        "vena cava": 150, "liver": 380, "stomach": 200, "spleen": 560, "pancreas": 460,
        "right kidney": 640, "left kidney": 640, "gallbladder": 950, "aorta": 110,
    },
}  # fmt: skip
"""Mean values of the parts of an abdomen, by modality: HU, and what has no unit."""

AIR = {"CT": -1000.0, "MR": 8.0}
NOISE = {"CT": 14.0, "MR": 22.0}

BRAIN = (
    Ellipsoid("grey matter", 0, (0, 0, 0), (58, 82, 64)),
    Ellipsoid("white matter", 0, (2, 0, 0), (44, 68, 50)),
    Ellipsoid("right nucleus", 0, (0, 0, -22), (14, 20, 9), 15),
    Ellipsoid("left nucleus", 0, (0, 0, 22), (14, 20, 9), -15),
    Ellipsoid("right ventricle", 0, (8, 6, -10), (16, 30, 6), 10),
    Ellipsoid("left ventricle", 0, (8, 6, 10), (16, 30, 6), -10),
    Ellipsoid("cerebellum", 0, (-34, 46, 0), (18, 22, 36)),
)
TUMOUR = (
    Ellipsoid("oedema", 0, (0, 0, 0), (22, 24, 22)),
    Ellipsoid("enhancing", 0, (0, 0, 0), (14, 15, 14)),
    Ellipsoid("necrosis", 0, (0, 0, 0), (8, 9, 8)),
)
TUMOUR_CODES = {"necrosis": 1, "oedema": 2, "enhancing": 4}
"""BraTS's label values to 2021."""
HEAD: Mapping[str, Mapping[str, float]] = {
    "t1": {
        "grey matter": 420, "white matter": 560, "right nucleus": 470, "left nucleus": 470,
        "right ventricle": 180, "left ventricle": 180, "cerebellum": 450,
        "oedema": 400, "enhancing": 430, "necrosis": 300,
    },
    "t1ce": {
        "grey matter": 440, "white matter": 570, "right nucleus": 490, "left nucleus": 490,
        "right ventricle": 180, "left ventricle": 180, "cerebellum": 480,
        "oedema": 420, "enhancing": 900, "necrosis": 310,
    },
    "t2": {
        "grey matter": 520, "white matter": 380, "right nucleus": 430, "left nucleus": 430,
        "right ventricle": 980, "left ventricle": 980, "cerebellum": 500,
        "oedema": 760, "enhancing": 680, "necrosis": 860,
    },
    "flair": {
        "grey matter": 480, "white matter": 400, "right nucleus": 430, "left nucleus": 430,
        "right ventricle": 120, "left ventricle": 120, "cerebellum": 450,
        "oedema": 860, "enhancing": 700, "necrosis": 420,
    },
}  # fmt: skip
"""Mean values of the parts of a brain with a tumour, by modality, in BraTS's order; 0 around it."""
HEAD_NOISE = 24.0
SULCI, SULCUS = 48, "right ventricle"
"""How many folds a brain has, and the part whose values they have: water."""


@dataclass(frozen=True)
class Motion:
    """A rigid motion about the middle of the phantom: where a point of the patient comes to lie.

    Args:
        rotation_deg: about x, y and z, as SimpleITK's Euler3DTransform has them.
        translation_mm: along x (left), y (back), z (head).
    """

    rotation_deg: tuple[float, float, float] = (0.0, 0.0, 0.0)
    translation_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def transform(self) -> object:
        """Return it as a SimpleITK transform, from the patient to where he lies."""
        import numpy as np
        import SimpleITK

        turn = SimpleITK.Euler3DTransform()
        turn.SetRotation(*np.deg2rad(self.rotation_deg).tolist())
        turn.SetTranslation(self.translation_mm)
        return turn


@dataclass(frozen=True)
class Grid:
    """Where a modality is sampled: voxels and mm of z, y, x, its middle in mm of z, y, x."""

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    middle_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def image(self, values: np.ndarray) -> object:
        """Return values ``(z, y, x)`` as a SimpleITK image that lies there."""
        import SimpleITK

        made = SimpleITK.GetImageFromArray(values)
        made.SetSpacing(self.spacing_mm[::-1])
        first = [
            middle - (n - 1) / 2 * mm
            for middle, n, mm in zip(self.middle_mm, self.shape, self.spacing_mm, strict=True)
        ]
        made.SetOrigin(first[::-1])
        return made


def abdomen(seed: int) -> list[Ellipsoid]:
    """Return the parts of one abdomen."""
    import numpy as np

    rng = np.random.default_rng([seed, 11])
    return [vary(part, rng) for part in BODY]


def head(seed: int) -> list[Ellipsoid]:
    """Return the parts of one brain with a tumour in either half of it."""
    import numpy as np

    rng = np.random.default_rng([seed, 12])
    side = rng.choice([-1.0, 1.0])
    place = (rng.uniform(-14, 22), rng.uniform(-34, 26), side * rng.uniform(20, 32))
    size = rng.uniform(0.75, 1.15)
    parts = [vary(part, rng) for part in BRAIN]
    for _ in range(SULCI):
        outward = rng.normal(size=3)
        outward /= np.linalg.norm(outward)
        at = tuple(float(r * v) for r, v in zip((50, 72, 55), outward, strict=True))
        radii = (float(rng.uniform(3, 12)), float(rng.uniform(2, 4)), float(rng.uniform(3, 12)))
        parts.append(Ellipsoid(SULCUS, 0, at, radii, float(rng.uniform(0, 180))))  # type: ignore[arg-type]
    for part in TUMOUR:
        moved = vary(part, rng)
        center = tuple(float(a + b) for a, b in zip(moved.center_mm, place, strict=True))
        grown = tuple(float(size * r) for r in moved.radii_mm)
        parts.append(Ellipsoid(part.name, 0, center, grown, moved.tilt_deg))  # type: ignore[arg-type]
    return parts


def draw(
    parts: Sequence[Ellipsoid], values: Mapping[str, float], grid: Grid, *, seed: int,
    motion: Motion | None = None, background: float = 0.0, noise: float = HEAD_NOISE,
    codes: Mapping[str, int] | None = None,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Return one modality, float32 ``(z, y, x)``, and the labels of its voxels, uint8.

    Args:
        parts: in the order in which they are drawn, later ones over earlier ones.
        values: the mean value of each part.
        grid: where it is sampled.
        seed: of noise and a smooth bias of 3%, which are the modality's own.
        motion: where the patient lies; None as the parts say.
        background, noise: the value around the parts, and the noise's deviation. Where the
            background is 0 it stays without noise, as around a brain that was cut out.
        codes: label values by part; other parts are 0.
    """
    import numpy as np

    axes = [
        np.float32(middle) + (np.arange(n, dtype=np.float32) - (n - 1) / 2) * np.float32(mm)
        for middle, n, mm in zip(grid.middle_mm, grid.shape, grid.spacing_mm, strict=True)
    ]
    z, y, x = np.meshgrid(*axes, indexing="ij")
    bias = np.cos(z / 90 + 1) * np.cos(y / 110) * np.cos(x / 100 - 0.5)
    if motion is not None:
        turn = motion.transform()
        matrix = np.array(turn.GetMatrix(), np.float32).reshape(3, 3)  # type: ignore[attr-defined]
        shift = np.asarray(motion.translation_mm, np.float32)
        moved = np.stack([x, y, z], -1) - shift
        x, y, z = np.moveaxis(moved @ matrix, -1, 0)  # the rotation's transpose, from the right
    image = np.full(grid.shape, background, np.float32)
    labels = np.zeros(grid.shape, np.uint8)
    inside = np.zeros(grid.shape, bool)
    mm = float(min(grid.spacing_mm))
    for part in parts:
        share = cover(part, z, y, x, mm)
        image += share * (np.float32(values[part.name]) - image)
        inside |= share > 0
        if codes is not None:
            labels[share > 0.5] = codes.get(part.name, 0)
    rng = np.random.default_rng([seed, 13])
    image = image * (1 + np.float32(0.03) * bias) if background == 0 else image
    spread = rng.normal(0, noise, grid.shape).astype(np.float32)
    if background == 0:
        image = np.where(inside, np.maximum(image + spread, 1), np.float32(0))
    else:
        image = image + spread
    return image.astype(np.float32), labels
