"""A synthetic abdomen: ellipsoids with the HU of organs, for machines without the real CT.

It is drawn, not taken: nothing that is measured on it says anything about patients.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lmaunet.data import normalization as norm
from lmaunet.data.class_map import SYNAPSE_CLASSES

if TYPE_CHECKING:
    import numpy as np

    from lmaunet.data.source import Source

NAME = "phantom (synthetic)"
LABEL_SOURCE = "synthetic: drawn, not a patient"
SHAPE = (112, 101, 122)
SPACING_MM = 3.0
AIR_HU, NOISE_HU, BIAS_HU = -1000.0, 14.0, 12.0


@dataclass(frozen=True)
class Ellipsoid:
    """One part of the body.

    Args:
        name: a class of :data:`SYNAPSE_CLASSES`, or any other name for what is background.
        hu: mean value in Hounsfield units.
        center_mm: z (towards the head), y (towards the back), x (towards the patient's left),
            from the middle of the volume.
        radii_mm: semi-axes in z, y, x.
        tilt_deg: rotation in the y-x plane.
    """

    name: str
    hu: float
    center_mm: tuple[float, float, float]
    radii_mm: tuple[float, float, float]
    tilt_deg: float = 0.0


# Drawn in this order, later parts over earlier ones.
BODY = (
    Ellipsoid("fat", -100, (0, 0, 0), (600, 112, 158)),
    Ellipsoid("muscle", 50, (0, 4, 0), (600, 96, 138)),
    Ellipsoid("bowel fat", -85, (-20, -14, 0), (260, 66, 108)),
    Ellipsoid("right lung", -800, (190, 8, -72), (78, 74, 52)),
    Ellipsoid("left lung", -800, (190, 8, 72), (78, 74, 52)),
    Ellipsoid("spine", 260, (0, 62, 0), (600, 19, 21)),
    Ellipsoid("pelvis right", 330, (-148, 30, -84), (42, 34, 17), 25),
    Ellipsoid("pelvis left", 330, (-148, 30, 84), (42, 34, 17), -25),
    Ellipsoid("bowel", 30, (-52, -34, 18), (52, 26, 58)),
    Ellipsoid("bowel gas", -650, (-40, -46, 36), (14, 9, 15)),
    Ellipsoid("vena cava", 110, (20, 36, -20), (190, 8, 10)),
    Ellipsoid("liver", 105, (88, -8, -62), (64, 60, 62), -12),
    Ellipsoid("stomach", 42, (84, -28, 52), (46, 26, 28), 30),
    Ellipsoid("spleen", 118, (82, 30, 98), (38, 32, 17), 20),
    Ellipsoid("pancreas", 82, (42, 4, 14), (16, 10, 42), -18),
    Ellipsoid("right kidney", 160, (28, 40, -60), (46, 21, 22), 25),
    Ellipsoid("left kidney", 160, (36, 40, 62), (46, 21, 22), -25),
    Ellipsoid("gallbladder", 10, (40, -34, -62), (22, 14, 13), 15),
    Ellipsoid("aorta", 175, (50, 38, 6), (150, 9, 9)),
)  # fmt: skip


def phantom_volume(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return one abdomen: float32 HU and uint8 labels, both ``(112, 101, 122)`` at 3 mm, in LPS.

    ``seed`` moves, scales and tilts every part, and draws the noise and a smooth bias. An edge
    voxel mixes the values on its two sides (partial volume) and is labelled by the larger.
    """
    import numpy as np

    rng = np.random.default_rng(seed)
    axes = [(np.arange(n, dtype=np.float32) - (n - 1) / 2) * SPACING_MM for n in SHAPE]
    z, y, x = np.meshgrid(*axes, indexing="ij", sparse=True)
    hu = np.full(SHAPE, AIR_HU, np.float32)
    labels = np.zeros(SHAPE, np.uint8)
    for part in BODY:
        share = cover(vary(part, rng), z, y, x)
        texture = part.hu + rng.normal(0, 4)
        hu += share * (np.float32(texture) - hu)
        index = SYNAPSE_CLASSES.index(part.name) if part.name in SYNAPSE_CLASSES else 0
        labels[share > 0.5] = index
    phase = rng.uniform(0, 2 * np.pi, 3)
    scale = 2 * np.pi / np.array([400.0, 300.0, 300.0])
    smooth = np.cos(z * scale[0] + phase[0]) + np.cos(y * scale[1] + phase[1])
    hu += BIAS_HU * (smooth + np.cos(x * scale[2] + phase[2])).astype(np.float32) / 3
    hu += rng.normal(0, NOISE_HU, SHAPE).astype(np.float32)
    return hu, labels


def vary(part: Ellipsoid, rng: np.random.Generator) -> Ellipsoid:
    """Return a part moved, scaled and tilted by what a generator draws."""
    shift = rng.normal(0, 2.0, 3)
    scale = rng.uniform(0.94, 1.06, 3)
    center = tuple(float(c + s) for c, s in zip(part.center_mm, shift, strict=True))
    radii = tuple(float(r * s) for r, s in zip(part.radii_mm, scale, strict=True))
    tilt = part.tilt_deg + float(rng.normal(0, 4))
    return Ellipsoid(part.name, part.hu, center, radii, tilt)  # type: ignore[arg-type]


def cover(
    part: Ellipsoid, z: np.ndarray, y: np.ndarray, x: np.ndarray, voxel_mm: float = SPACING_MM
) -> np.ndarray:
    """Return the share of each voxel that lies in the ellipsoid, float32.

    The distance to the surface is taken as ``(r - 1) / |grad r|`` with r the ellipsoid's radius
    function, which is exact to first order at the surface.
    """
    import numpy as np

    angle = np.deg2rad(part.tilt_deg)
    dz, dy, dx = (v - c for v, c in zip((z, y, x), part.center_mm, strict=True))
    u = np.float32(np.cos(angle)) * dx + np.float32(np.sin(angle)) * dy
    v = np.float32(np.cos(angle)) * dy - np.float32(np.sin(angle)) * dx
    rz, rv, ru = (np.float32(r) for r in part.radii_mm)
    radius = np.sqrt((dz / rz) ** 2 + (v / rv) ** 2 + (u / ru) ** 2)
    slope = np.sqrt((dz / rz**2) ** 2 + (v / rv**2) ** 2 + (u / ru**2) ** 2)
    distance = (radius - 1) * radius / np.maximum(slope, np.float32(1e-6))
    return np.clip(0.5 - distance / voxel_mm, 0, 1).astype(np.float32)


def phantom_source(seed: int) -> Source:
    """Return the phantom of ``seed`` as a volume to be divided by blocks of z."""
    from lmaunet.data.source import Source, Volume

    hu, labels = phantom_volume(seed)
    spacing = (SPACING_MM, SPACING_MM, SPACING_MM)
    return Source(
        name=NAME,
        label_source=LABEL_SOURCE,
        classes=SYNAPSE_CLASSES,
        volumes=[Volume(f"phantom{seed}", "blocks", labels, (lambda: hu,), spacing)],
        split="",
        layout="drawn by this program",
        normalization=norm.window(*norm.ABDOMEN_WINDOW_HU),
        synthetic=True,
        notes=("synthetic images: a score on them says nothing about patients",),
    )
