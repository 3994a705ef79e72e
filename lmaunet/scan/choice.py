"""The cheapest formats of a scan whose integers stay close enough to the real scan.

How close is a signal-to-quantization-noise ratio (SQNR) of the accumulators that gain multiplies,
integer against real, on the codes of a calibration set: in aggregate, and for the worst channel. (Y
itself would hide the scan's noise behind its own rounding to 8 bits.)

The widths are searched on a model of the noise. Each width is narrowed alone, all others being
wide, and the noise that it adds to each channel is measured. Roundings of different cuts are almost
uncorrelated, so that the noise of a combination is the sum of its parts. The cheapest combination
that meets the target by this model is then measured itself; where it does not hold, the model must
promise more of the next one.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lmaunet.errors import UserError
from lmaunet.sampling import evenly_spread
from lmaunet.scan.compiled import run_compiled
from lmaunet.scan.fixed import Fixed, cut
from lmaunet.scan.formats import ScanScales, ScanStatistics, Widths, observe_scan, spec_for
from lmaunet.scan.integer import IntegerScan
from lmaunet.scan.real import Real
from lmaunet.spec import ScanSpec

# How much lower the worst channel may lie than the aggregate.
CHANNEL_ALLOWANCE_DB = 12.0

# The variance of the rounding of y to codes. A channel with less signal than this is lost there.
OUTPUT_ROUNDING = 1 / 12

# An error whose power is this share of that rounding's meets every target: a scan that says nothing
# has no signal to compare it with.
INAUDIBLE_SHARE = 1e-4

# State updates in a measurement of the noise: while widths are searched, and of what was found.
SEARCHED_UPDATES, MEASURED_UPDATES = 1 << 21, 1 << 24

_Codes = npt.NDArray[np.integer]


@dataclass(frozen=True)
class _Search:
    """The values that a width may have, and the one where the search begins."""

    widest: int
    narrowest: int
    start: int
    halving: bool = False

    def values(self) -> list[int]:
        """Return the values from wide to narrow."""
        if not self.halving:
            return list(range(self.widest, self.narrowest - 1, -1))
        return [self.widest >> i for i in range((self.widest // self.narrowest).bit_length())]


_SEARCHED = {
    "state_bits": _Search(22, 8, 14),
    "delta_bits": _Search(18, 8, 12),
    "decay_frac": _Search(18, 8, 12),
    "drive_bits": _Search(20, 8, 13),
    "exponent_frac": _Search(18, 8, 10),
    "rate_bits": _Search(16, 6, 9),
    "exp_segments": _Search(128, 8, 32, halving=True),
}

# An error below this share of what is allowed is not worth a wider format.
_FREE_SHARE = 0.01

_RATIOS = ("sqnr_db", "worst_channel_db")

# How much more the model of the noise must promise where a measurement misses the target.
_TIGHTENED_DB = 0.25


@dataclass(frozen=True)
class ScanCodes:
    """The codes that a scan is given: x, dt ``(n, L, channels)``, b, c ``(n, L, states)``."""

    x: _Codes
    dt: _Codes
    b: _Codes
    c: _Codes

    @property
    def stimuli(self) -> tuple[_Codes, _Codes, _Codes, _Codes]:
        """x, dt, b and c, as :meth:`IntegerScan.run` takes them."""
        return self.x, self.dt, self.b, self.c

    def spread(self, count: int) -> ScanCodes:
        """Return the codes of so many images, evenly spread, or of all."""
        images = evenly_spread(len(self.x), count)
        return ScanCodes(*(v[images] for v in self.stimuli))


@dataclass(frozen=True)
class Noise:
    """Mean squares of each channel's accumulators, in codes of y: the signal's and the error's."""

    signal: Real
    error: Real

    @property
    def sqnr_db(self) -> float:
        """SQNR over all channels; infinite where there is no error."""
        return _db(float(self.signal.sum()), float(self.error.sum()))

    @property
    def worst_channel_db(self) -> float:
        """The smallest SQNR of a channel that is not lost in the rounding of y; else infinite."""
        heard = self.signal > OUTPUT_ROUNDING
        pairs = zip(self.signal[heard], self.error[heard], strict=True)
        return min((_db(signal, error) for signal, error in pairs), default=math.inf)

    def meets(self, target_db: float) -> bool:
        """Tell whether the aggregate meets the target and the worst channel its own."""
        return self.share(self.error, target_db) <= 1

    def share(self, error: Real, target_db: float) -> float:
        """Return how much of what a target allows an error takes up, at least 0.

        It is the larger of the shares of the aggregate and of the worst channel.
        """
        allowed = self.signal / 10 ** ((target_db - CHANNEL_ALLOWANCE_DB) / 10)
        heard = self.signal > OUTPUT_ROUNDING
        shares = [_share(e, a) for e, a in zip(error[heard], allowed[heard], strict=True)]
        total = max(
            float(self.signal.sum()) / 10 ** (target_db / 10),
            len(self.signal) * OUTPUT_ROUNDING * INAUDIBLE_SHARE,
        )
        return max([*shares, _share(float(error.sum()), total)])


@dataclass(frozen=True)
class ChosenFormats:
    """The formats chosen for one scan, and what they rest on.

    Args:
        spec: the formats.
        widths: that were chosen; the spec follows from them and the statistics.
        statistics: of the calibration codes.
        target_db: what was asked for in aggregate.
        sqnr_db, worst_channel_db: what was measured on the calibration codes.
        cost: of :func:`cost`.
    """

    spec: ScanSpec
    widths: Widths
    statistics: ScanStatistics
    target_db: float
    sqnr_db: float
    worst_channel_db: float
    cost: float

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON, which has no infinity.

        An infinite SQNR is null: of a scan without error, or where ``silent`` says so of one
        without signal, whose SQNR is minus infinity.
        """
        content = asdict(self) | {"spec": self.spec.to_json()}
        for name in _RATIOS:
            content[name] = content[name] if math.isfinite(content[name]) else None
        return content | {"silent": self.sqnr_db == -math.inf}

    @staticmethod
    def from_json(content: Mapping[str, Any]) -> ChosenFormats:
        """Return what :meth:`to_json` wrote; raises UserError for anything else."""
        try:
            statistics = content["statistics"]
            seen = ScanStatistics(
                tuple(statistics["state"]), tuple(statistics["drive"]), int(statistics["dt"])
            )
            ratios = {
                name: math.inf if content[name] is None else float(content[name])
                for name in _RATIOS
            }
            if content.get("silent", False):
                ratios["sqnr_db"] = -math.inf
            return ChosenFormats(
                ScanSpec.from_json(content["spec"]), Widths(**content["widths"]), seen,
                target_db=float(content["target_db"]), cost=float(content["cost"]), **ratios,
            )  # fmt: skip
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise UserError(f"not the chosen formats of a scan: {error!r}") from error


def cost(widths: Widths, states: int) -> float:
    """Return what one lane of hardware costs, in LUTs as if it had no other resource.

    One for each pair of bits that a multiplier pairs, and one for each 64 bits stored. A lane
    updates one state a cycle; what a channel needs once is shared by its states. A lane is taken
    to keep 64 states and rates, which is what folding to a few milliseconds a frame leads to.
    """
    w, mantissa = widths, widths.decay_frac + 1
    low_bits = w.exponent_frac - (w.exp_segments.bit_length() - 1)
    each_state = (
        w.delta_bits * w.rate_bits
        + mantissa * low_bits
        + mantissa * w.state_bits
        + 8 * w.drive_bits
        + 8 * w.state_bits
        + (w.state_bits + w.rate_bits)
        + 2 * mantissa * w.exp_segments / 64
    )
    each_channel = 8 * w.delta_bits + w.accumulator_bits * w.gain_bits + 256 * w.delta_bits / 64
    return each_state + each_channel / states


def choose_formats(
    scales: ScanScales, A: Real, D: Real, codes: ScanCodes, target_db: float
) -> ChosenFormats:
    """Return the cheapest formats that meet a target.

    Ranges are observed on all images, with a bit of margin for other data. Widths are searched on
    a few images, ``SEARCHED_UPDATES``, and what is found is held to the target on more of them,
    ``MEASURED_UPDATES``.

    Args:
        scales, A, D: as for :meth:`IntegerScan.from_real`.
        codes: what the scan is given on calibration images.
        target_db: the least SQNR in aggregate; the worst channel may lie ``CHANNEL_ALLOWANCE_DB``
            below it.

    Raises:
        UserError: where not even the widest formats meet the target.
    """
    statistics = merge(
        observe_scan(scales, A, *(v[i : i + 1] for v in codes.stimuli[:3]))
        for i in range(len(codes.x))
    )
    search = _Bench.of(scales, A, D, codes, statistics, SEARCHED_UPDATES)
    full = _Bench.of(scales, A, D, codes, statistics, MEASURED_UPDATES)
    widest = _widths({})
    base = search.measure(widest)
    for noise in (base, full.measure(widest)):
        if not noise.meets(target_db):
            raise UserError(
                f"an SQNR of {target_db:g} dB for the scan in integers; the widest formats reach "
                f"{noise.sqnr_db:.1f} dB, and {noise.worst_channel_db:.1f} dB in the worst "
                f"channel, which may lie {CHANNEL_ALLOWANCE_DB:g} dB lower; ask for less"
            )
    added = {name: _narrowed(search, base, name, target_db) for name in _SEARCHED}
    promised_db = target_db
    for widths, error in _by_cost(added, A.shape[1]):
        if base.share(base.error + error, promised_db) <= 1:
            measured = full.measure(widths)
            if measured.meets(target_db):
                break
            promised_db += _TIGHTENED_DB
    else:
        widths = widest
        measured = full.measure(widths)
    return ChosenFormats(
        full.spec(widths), widths, statistics, target_db, measured.sqnr_db,
        measured.worst_channel_db, cost(widths, A.shape[1]),
    )  # fmt: skip


def measure(scan: IntegerScan, codes: ScanCodes) -> Noise:
    """Return the signal and the error of an integer scan against the real scan of its codes."""
    real = scan.run_real(*codes.stimuli).accumulator.swapaxes(0, 1)
    return _noise(scan, codes, real)


@dataclass(frozen=True)
class _Bench:
    """A scan, its calibration and the real results that formats are measured against."""

    scales: ScanScales
    A: Real
    D: Real
    codes: ScanCodes
    statistics: ScanStatistics
    real: Real

    @staticmethod
    def of(
        scales: ScanScales,
        A: Real,
        D: Real,
        codes: ScanCodes,
        statistics: ScanStatistics,
        updates: int,
    ) -> _Bench:
        """Return the bench of as many images as ``updates`` state updates hold, at least one."""
        images = codes.spread(max(1, updates // (codes.x[0].size * A.shape[1])))
        scan = IntegerScan.from_real(spec_for(scales, A, D, statistics), scales, A, D)
        real = scan.run_real(*images.stimuli).accumulator.swapaxes(0, 1)
        return _Bench(scales, A, D, images, statistics, real)

    def spec(self, widths: Widths) -> ScanSpec:
        return spec_for(self.scales, self.A, self.D, self.statistics, widths)

    def measure(self, widths: Widths) -> Noise:
        scan = IntegerScan.from_real(self.spec(widths), self.scales, self.A, self.D)
        return _noise(scan, self.codes, self.real)


def merge(parts: Iterable[ScanStatistics]) -> ScanStatistics:
    """Return the statistics of several sets together."""
    state, drive, dt = zip(*((p.state, p.drive, p.dt) for p in parts), strict=True)
    return ScanStatistics(
        tuple(np.max(state, 0).tolist()), tuple(np.max(drive, 0).tolist()), max(dt)
    )


def _noise(scan: IntegerScan, codes: ScanCodes, real: Real) -> Noise:
    result = run_compiled(scan, *codes.stimuli)
    form = scan.spec.formats["accumulator"]
    got = cut(Fixed(result.accumulators, result.accumulator_frac), form)[0].to_real()
    # both are clipped as y will be
    real = np.clip(real, math.ldexp(form.low, -form.frac), math.ldexp(form.high, -form.frac))
    unit = scan.scales.gain**2
    return Noise(np.square(real).mean((0, 1)) * unit, np.square(got - real).mean((0, 1)) * unit)


def _widths(values: Mapping[str, int]) -> Widths:
    """Return the widest widths with other values."""
    widest: dict[str, Any] = {name: search.widest for name, search in _SEARCHED.items()}
    return Widths(**widest | dict(values))


def _narrowed(bench: _Bench, base: Noise, name: str, target_db: float) -> list[tuple[int, Real]]:
    """Return the values of one width that are worth a choice, and the error that each adds."""
    values = _SEARCHED[name].values()
    start = values.index(_SEARCHED[name].start)
    found: list[tuple[int, Real]] = []
    for value in reversed(values[: start + 1]):  # ever wider, until the error no longer counts
        noise = bench.measure(_widths({name: value}))
        found.insert(0, (value, np.maximum(noise.error - base.error, 0.0)))
        if base.share(found[0][1], target_db) < _FREE_SHARE:
            break
    for value in values[start + 1 :]:
        noise = bench.measure(_widths({name: value}))
        error = np.maximum(noise.error - base.error, 0.0)
        if not noise.meets(target_db):
            break
        if base.share(error, target_db) < _FREE_SHARE:
            found.clear()  # the wider ones gain nothing
        found.append((value, error))
    return found


def _by_cost(
    added: Mapping[str, Sequence[tuple[int, Real]]], states: int
) -> Iterator[tuple[Widths, Real]]:
    """Yield every combination of widths and the error that it adds, the cheapest first."""
    entries = []
    for choice in itertools.product(*added.values()):
        values = [value for value, _ in choice]
        widths = _widths(dict(zip(added, values, strict=True)))
        entries.append((cost(widths, states), values, widths, choice))
    for *_, widths, choice in sorted(entries, key=lambda entry: entry[:2]):
        yield widths, np.sum([part for _, part in choice], axis=0)


def _share(part: float, whole: float) -> float:
    if whole == 0:
        return math.inf if part else 0.0
    return part / whole


def _db(signal: float, error: float) -> float:
    if error == 0:
        return math.inf
    return 10 * math.log10(signal / error) if signal else -math.inf
