"""The integer scan a second time, from the formulas alone: exact fractions, one element at a time.

The shift of a channel is said otherwise here: its drive and its state are cut at a last bit that is
``2 ** shift`` times finer, and nothing is ever scaled.

Deliberately slow and simple. It shares no code with ``lmaunet.scan``: it knows the formats, the
scales and the real parameters, and rounds each number where the formulas say so.
"""

import math
from fractions import Fraction

FULL_SCALE = 128


class Oracle:
    """One scan; ``saturations`` counts by cut what did not fit."""

    def __init__(self, formats, segments, scales, A, D, shifts):
        self.formats, self.segments, self.scales, self.shifts = formats, segments, scales, shifts
        self.saturations = dict.fromkeys(formats, 0)
        self.rate = [[self.cut("rate", -a / math.log(2)) for a in row] for row in A]
        skip_unit = FULL_SCALE**2 * scales.b * scales.c
        self.skip = [self.cut("skip", d / skip_unit) for d in D]
        self.gain = self.cut("gain", FULL_SCALE**3 * scales.x * scales.b * scales.c / scales.y)

    def cut(self, name, value, finer=0):
        """Round half up to the format's last bit, or ``finer`` bits below it, then saturate."""
        bits, frac, signed = (getattr(self.formats[name], k) for k in ("bits", "frac", "signed"))
        unit = Fraction(2) ** -(frac + finer)
        code = math.floor(Fraction(value) / unit + Fraction(1, 2))
        low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
        if not low <= code <= high:
            self.saturations[name] += 1
            code = min(max(code, low), high)
        return code * unit

    def decay(self, exponent):
        """2 ** -v: straight lines between rounded points for the fraction, a division for the rest.

        What is below a quarter of decay's last bit may be taken as zero: it rounds to zero.
        """
        whole = math.floor(exponent)
        position = (exponent - whole) * self.segments
        segment = math.floor(position)
        left, right = (
            self.cut("mantissa", 2.0 ** (-(segment + i) / self.segments)) for i in (0, 1)
        )
        mantissa = self.cut("mantissa", left + (right - left) * (position - segment))
        return self.cut("decay", mantissa / 2**whole)

    def image(self, x, dt, b, c):
        """Return y and accumulators as nested lists of exact fractions, ``[token][channel]``."""
        channels, states = len(self.rate), len(self.rate[0])
        h = [[Fraction(0)] * states for _ in range(channels)]
        ys, accumulators = [], []
        for token in range(len(x)):
            y_row, acc_row = [], []
            for d in range(channels):
                u = Fraction(int(x[token][d]), FULL_SCALE)
                delta = self.cut("delta", math.log1p(math.exp(int(dt[token][d]) * self.scales.dt)))
                drive = self.cut("drive", delta * u, self.shifts[d])
                total = self.skip[d] * u
                for n in range(states):
                    exponent = self.cut("exponent", delta * self.rate[d][n])
                    inflow = drive * Fraction(int(b[token][n]), FULL_SCALE)
                    kept = self.decay(exponent) * h[d][n]
                    h[d][n] = self.cut("state", kept + inflow, self.shifts[d])
                    total += Fraction(int(c[token][n]), FULL_SCALE) * h[d][n]
                acc_row.append(total)
                y_row.append(self.cut("output", self.gain * self.cut("accumulator", total)))
            ys.append(y_row)
            accumulators.append(acc_row)
        return ys, accumulators


def oracle_of(scan):
    """Return the oracle with the formats and the real parameters of an IntegerScan."""
    spec = scan.spec
    return Oracle(
        spec.formats, spec.exp_segments, scan.scales, scan.A.tolist(), scan.D.tolist(),
        spec.state_shift or (0,) * spec.channels,
    )  # fmt: skip


def oracle_codes(oracle, scan, x, dt, b, c):
    """Return y and accumulators of a batch as nested lists of integer codes."""
    images = [oracle.image(*image) for image in zip(x, dt, b, c, strict=True)]
    fracs = scan.spec.formats["output"].frac, scan.ranges["accumulator"].frac
    ys = [_codes(y, fracs[0]) for y, _ in images]
    return ys, [_codes(accumulators, fracs[1]) for _, accumulators in images]


def _codes(rows, frac):
    codes = [[value * Fraction(2) ** frac for value in row] for row in rows]
    assert all(code.denominator == 1 for row in codes for code in row)
    return [[int(code) for code in row] for row in codes]
