"""VVAU: a depthwise convolution on DSP48E2, with the weights in a ROM at their own width.

FINN+ has RTL for it on Versal only. The input is what FINN+'s depthwise window generator puts out,
see :mod:`lmaunet.fpga.operators.max_pool`; with SIMD > 1 a beat holds SIMD taps of PE channels,
channels innermost.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from lmaunet.errors import UserError
from lmaunet.fpga.board.memories import Memory
from lmaunet.fpga.board.placement import Resources
from lmaunet.fpga.operators.arithmetic import (
    check_divides,
    exact_dtype,
    legal_divisors,
    type_bits,
    type_range,
)
from lmaunet.fpga.operators.common import (
    adder_tree,
    balanced_chain,
    credit_queue,
    delayed,
    is_signed,
    stream,
)
from lmaunet.fpga.operators.operator import Folding, Operator
from lmaunet.fpga.operators.rtl_module import Port, RtlModule, lane_words

WEIGHTS = "weights.dat"
SOURCES = (
    "credit_queue.sv", "delay_line.sv", "adder_tree.sv", "packed_products.sv", "depthwise_conv.sv",
)  # fmt: skip
# Vitis HLS has no integers, hence no streams, above this width.
LARGEST_HLS_BITS = 8191


class VVAU(Operator):
    """Windows ``(n, H, W, taps * C)`` to accumulators ``(n, H, W, C)``, a channel by itself.

    SIMD taps of PE channels a cycle. The weights are ``(C, 1, kernel height, kernel width)``.
    """

    folded_by = ("PE", "SIMD")
    follows_window = True
    wide = True

    def execute(self, inputs: list[np.ndarray]) -> np.ndarray:
        """Return the accumulators, int64; raises :class:`UserError` where no float is exact."""
        x, weights = inputs
        taps = weights.reshape(weights.shape[0], -1).T  # (kh * kw, C)
        dtype = exact_dtype(taps, x)
        windows = x.reshape(*x.shape[:3], *taps.shape).astype(dtype)
        return np.rint(np.einsum("nhwkc,kc->nhwc", windows, taps.astype(dtype))).astype(np.int64)

    @classmethod
    def purpose(cls) -> str:
        """Return that its constants are weights."""
        return "weights"

    def channels(self) -> int:
        """Return the channels."""
        return int(self.attributes["Channels"])

    def foldings(self) -> Iterator[Folding]:
        """Yield divisors of the channels and of the taps, as far as Vitis HLS has such streams."""
        for pe in legal_divisors(self.channels()):
            for simd in legal_divisors(math.prod(self.attributes["Kernel"])):
                if pe * simd * 8 <= LARGEST_HLS_BITS:
                    yield {"PE": pe, "SIMD": simd}

    def window_folding(self, folding: Folding) -> Folding:
        """Return the window's folding: parallel where several taps come at once."""
        return {"SIMD": folding["PE"], "parallel_window": int(folding["SIMD"] > 1)}

    def check(self) -> None:
        """Raise :class:`UserError` where PE or SIMD do not divide the channels or the taps."""
        super().check()
        check_divides("SIMD", self.attributes["SIMD"], "taps", math.prod(self.attributes["Kernel"]))

    def cycles(self) -> int:
        """Return a cycle for each beat of each window."""
        a = self.attributes
        taps = math.prod(a["Kernel"])
        return math.prod(a["Dim"]) * (a["Channels"] // a["PE"]) * (taps // a["SIMD"])

    def lanes(self, index: int, *, output: bool) -> int:
        """Return PE channels out, SIMD taps of PE channels in."""
        return self.attributes["PE"] * (1 if output else self.attributes["SIMD"])

    def resources(self) -> Resources:
        """One DSP a multiplication; registers and adders as in depthwise_conv.sv (*yosys*).

        With one tap the DSP accumulates too. With several an accumulator of LUTs is needed only
        where a window takes several beats.
        """
        a = self.attributes
        pe, simd, bits = a["PE"], a["SIMD"], type_bits(a["weightDataType"])
        taps, out = math.prod(a["Kernel"]), type_bits(a["outputDataType"])
        code = type_bits(a["inputDataType"])
        weights = Memory(
            "weights", pe * simd * bits, a["Channels"] * taps // (pe * simd), initialised=True
        )
        queue = credit_queue(pe * out)
        chain = balanced_chain(simd)
        # a chain's first code is in a register of its DSP, a word of block RAM in the RAM's
        codes = pe * (simd - math.ceil(simd / chain)) * code
        lut, ff = 18, 12 + codes + pe * simd * bits * weights.distributed
        if simd > 1:
            signed = code + (not is_signed(a["inputDataType"]))
            field = min(signed + bits + (chain - 1).bit_length(), out)
            tree = adder_tree(math.ceil(simd / chain), field, out, signed=True)
            lut += pe * (tree.lut + out * (simd < taps))
            ff += pe * (tree.ff + out + delayed(simd, chain) * (code + bits))
        return Resources(lut + queue.lut, pe * simd, (weights,), ff + queue.ff)

    def module(self, constants: Sequence[np.ndarray]) -> RtlModule:
        """Return the RTL.

        Args:
            constants: the weights ``(channels, 1, kernel height, kernel width)``.

        Raises:
            UserError: where PE or SIMD do not divide the channels or the taps, or the weights do
                not fit their type.
        """
        a = self.attributes
        self.check()
        channels, pe, simd, taps = a["Channels"], a["PE"], a["SIMD"], math.prod(a["Kernel"])
        input_type, weight_type, output_type = (
            a[f"{name}DataType"] for name in ("input", "weight", "output")
        )
        weights = np.asarray(constants[0]).astype(np.int64).reshape(channels, -1)
        if weights.shape != (channels, taps):
            raise UserError(f"VVAU: weights of shape {weights.shape}, expected {(channels, taps)}")
        if not is_signed(weight_type) or not is_signed(output_type):
            raise UserError(f"VVAU: {weight_type} weights to {output_type}, expected signed types")
        low, high = type_range(weight_type)
        if weights.min() < low or weights.max() > high:
            raise UserError(
                f"VVAU: weights of {weights.min()} to {weights.max()}, {weight_type} is {low} to "
                f"{high}"
            )
        # (group, beat, tap of the beat, channel of the group)
        order = weights.reshape(channels // pe, pe, taps // simd, simd).transpose(0, 2, 3, 1)
        bits = type_bits(weight_type)
        return RtlModule(
            "depthwise_conv",
            SOURCES,
            {
                "PE": pe,
                "SIMD": simd,
                "TAPS": taps,
                "GROUPS": channels // pe,
                "INPUT_BITS": type_bits(input_type),
                "INPUT_SIGNED": is_signed(input_type),
                "WEIGHT_BITS": bits,
                "OUTPUT_BITS": type_bits(output_type),
                "CHAIN": balanced_chain(simd),
                "WEIGHTS": WEIGHTS,
                "ROM_STYLE": a.get("ram_style", "auto"),
            },
            (Port("in0_V", type_bits(input_type) * pe * simd),),
            (stream("out0_V", output_type, pe),),
            {WEIGHTS: lane_words(order.reshape(-1, simd * pe), bits)},
        )
