"""Test vectors of the integer scan: stimuli, golden results, and how to compare with them.

A bench of another implementation (a hardware operator, RTL) loads the file that :meth:`save` wrote,
feeds the codes and compares y *and* the accumulators, bit for bit.
"""

from __future__ import annotations

import dataclasses
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lmaunet.errors import UserError
from lmaunet.scan.fixed import Codes
from lmaunet.scan.formats import DEFAULT_WIDTHS, ScanScales, Widths
from lmaunet.scan.integer import IntegerScan, calibrate, to_codes
from lmaunet.scan.real import Real, selective_scan
from lmaunet.scan.tables import DT
from lmaunet.spec import ScanSpec

_CODES = ("x", "dt", "b", "c", "y", "accumulators", "state")


@dataclass(frozen=True)
class ScanVectors:
    """Stimuli of one integer scan and its golden results, all of them integer codes.

    ``x``, ``dt``, ``y`` and ``accumulators`` are ``(batch, L, channels)``, ``b`` and ``c``
    ``(batch, L, states)``, and ``state``, the last one, is ``(batch, channels, states)``.
    """

    scan: IntegerScan
    x: Codes
    dt: Codes
    b: Codes
    c: Codes
    y: Codes
    accumulators: Codes
    state: Codes

    @staticmethod
    def record(scan: IntegerScan, x: Codes, dt: Codes, b: Codes, c: Codes) -> ScanVectors:
        """Run the scan on stimuli and keep both."""
        result = scan.run(x, dt, b, c)
        return ScanVectors(scan, x, dt, b, c, result.y, result.accumulators, result.state)

    @property
    def stimuli(self) -> tuple[Codes, Codes, Codes, Codes]:
        """x, dt, b and c, as :meth:`IntegerScan.run` takes them."""
        return self.x, self.dt, self.b, self.c

    def save(self, path: Path) -> None:
        """Write everything, the scan included, to one ``.npz`` file, atomically."""
        scan = {"spec": self.scan.spec.to_json(), "scales": dataclasses.asdict(self.scan.scales)}
        partial = path.with_name(f".{path.name}.partial")
        with partial.open("wb") as stream:
            np.savez_compressed(
                stream,
                scan=np.array(json.dumps(scan)),
                A=self.scan.A,
                D=self.scan.D,
                **{name: getattr(self, name) for name in _CODES},
            )
        partial.replace(path)

    @staticmethod
    def load(path: Path) -> ScanVectors:
        """Read what :meth:`save` wrote; raises UserError for any other file."""
        try:
            with np.load(path, allow_pickle=False) as file:
                content = {name: file[name] for name in ("scan", "A", "D", *_CODES)}
            scan = json.loads(content.pop("scan").item())
            spec, scales = ScanSpec.from_json(scan["spec"]), ScanScales(**scan["scales"])
        except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
            raise UserError(
                f"{path} holds no scan vectors ({error}); write it with ScanVectors.save"
            ) from error
        parameters = content.pop("A"), content.pop("D")
        return ScanVectors(IntegerScan.from_real(spec, scales, *parameters), **content)


def synthetic(
    channels: int,
    states: int,
    length: int,
    *,
    batch: int = 1,
    seed: int = 0,
    widths: Widths = DEFAULT_WIDTHS,
) -> ScanVectors:
    """Return vectors with the statistics of a trained scan, calibrated on themselves.

    x, B and C are first-order autoregressive along the tokens, as neighbouring pixels are alike.
    Each channel has its own time step, from 0.001 to 0.1 before it moves by a factor of about 2, as
    Mamba initializes it. The rates are 1 to N, each scattered by 30%.

    Args:
        channels, states, length, batch: the sizes.
        seed: of the random numbers.
        widths: of the scan's cuts and constants.
    """
    rng = np.random.default_rng(seed)
    x, step = (autoregressive(rng, (batch, length, channels), 0.9) for _ in range(2))
    b, c = (autoregressive(rng, (batch, length, states), 0.8) for _ in range(2))
    typical = np.exp(rng.uniform(np.log(1e-3), np.log(1e-1), channels))
    dt = np.log(np.expm1(typical)) + 0.7 * step
    A = -np.arange(1, states + 1) * rng.uniform(0.7, 1.3, (channels, states))
    D = rng.uniform(-1, 1, channels)

    def scale(values: Real) -> float:
        return float(np.abs(values).max()) / DT.high

    y = selective_scan(x, dt, A, b, c, D)
    scales = ScanScales(scale(x), scale(dt), scale(b), scale(c), scale(y))
    x_codes, dt_codes, b_codes, c_codes = (
        to_codes(value, s)
        for value, s in ((x, scales.x), (dt, scales.dt), (b, scales.b), (c, scales.c))
    )
    scan = calibrate(scales, A, D, x_codes, dt_codes, b_codes, widths)
    return ScanVectors.record(scan, x_codes, dt_codes, b_codes, c_codes)


def corners(scan: IntegerScan, length: int, *, seed: int = 0) -> ScanVectors:
    """Return vectors of extreme codes, one image each.

    The images: all zero; all at the lowest and all at the highest code; both in turn; an impulse in
    x that decays; the fastest and the slowest time step under a constant input, which saturates
    the state where its format is narrow; and random picks of -128, -1, 0, 1 and 127.
    """
    rng = np.random.default_rng(seed)
    low, high = DT.low, DT.high
    alternating = np.where(np.arange(length) % 2, high, low)
    impulse = np.where(np.arange(length) == 0, high, 0)
    picks = np.array([low, -1, 0, 1, high])
    images: list[tuple[npt.ArrayLike, ...]] = [
        (0, 0, 0, 0),
        (low, low, low, low),
        (high, high, high, high),
        (low, high, high, low),
        (alternating, 0, high, high),
        (alternating, alternating, alternating, low),
        (impulse, 0, high, high),
        (high, low, high, high),
        (low, -32, high, alternating),
    ]
    sizes = [scan.spec.channels] * 2 + [scan.spec.states] * 2
    stimuli = []
    for position, size in enumerate(sizes):
        rows = [np.broadcast_to(image[position], length) for image in images]
        fixed = np.stack([np.broadcast_to(row[:, None], (length, size)) for row in rows])
        random = rng.choice(picks, (2, length, size))
        stimuli.append(np.concatenate([fixed, random]).astype(np.int64))
    return ScanVectors.record(scan, *stimuli)


def autoregressive(
    rng: np.random.Generator, shape: tuple[int, int, int], correlation: float
) -> Real:
    """Return noise ``(batch, L, features)`` of variance 1, correlated along L."""
    noise = rng.standard_normal(shape)
    for t in range(1, shape[1]):
        noise[:, t] = correlation * noise[:, t - 1] + np.sqrt(1 - correlation**2) * noise[:, t]
    return noise


def sqnr_db(reference: npt.ArrayLike, got: npt.ArrayLike) -> float:
    """Return the signal-to-quantization-noise ratio in dB over all elements.

    ``10 log10(sum reference**2 / sum (got - reference)**2)``; infinite where nothing differs.
    """
    return float(
        _ratio_db(np.asarray(reference).ravel()[:, None], np.asarray(got).ravel()[:, None])[0]
    )


def sqnr_db_per_channel(reference: npt.ArrayLike, got: npt.ArrayLike) -> Real:
    """Return :func:`sqnr_db` of each channel, the last axis."""
    channels = np.shape(reference)[-1]
    return _ratio_db(np.reshape(reference, (-1, channels)), np.reshape(got, (-1, channels)))


def _ratio_db(reference: npt.NDArray[np.generic], got: npt.NDArray[np.generic]) -> Real:
    if reference.shape != got.shape:
        raise UserError(f"cannot compare {got.shape} with a reference of {reference.shape}")
    signal = np.square(reference, dtype=np.float64).sum(0)
    noise = np.square(np.subtract(got, reference, dtype=np.float64)).sum(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = 10 * np.log10(signal / noise)
    return np.where(noise == 0, np.inf, ratio)
