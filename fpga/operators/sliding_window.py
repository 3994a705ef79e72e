"""ConvolutionInputGenerator: the windows of a map, serial or a whole window a beat.

Its attributes, the order of its streams and its cycle count are those of FINN+'s
``ConvolutionInputGenerator_rtl``; the RTL is our own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from lmaunet.fpga.board.memories import LUTRAM_DEPTH, Memory
from lmaunet.fpga.board.placement import Resources
from lmaunet.fpga.operators.arithmetic import legal_divisors, type_bits
from lmaunet.fpga.operators.common import count_bits, stream
from lmaunet.fpga.operators.operator import Folding, Operator, Rows
from lmaunet.fpga.operators.rtl_module import RtlModule

SOURCES = (
    "wrap_counter.sv", "window_queue.sv", "window_taps.sv", "window_edge.sv", "window_columns.sv",
    "window_ring.sv", "sliding_window.sv",
)  # fmt: skip
# Words of the ring that are on their way: taken, but not yet seen to be there or to be free.
ON_THE_WAY = 4
# Registers of the output that move together, as in sliding_window.sv.
GROUP_LOADS = 200


def _lutram(bits: int) -> int:
    """Return the LUTs of a memory of up to 32 words of so many bits."""
    return 8 * math.ceil(bits / 14)


@dataclass(frozen=True)
class Geometry:
    """Sizes as the RTL has them, (height, width) each; a map of one column lies on its side."""

    size: tuple[int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    folds: int
    depthwise: bool

    @property
    def windows(self) -> tuple[int, int]:
        """Windows of a column and of a row."""
        (height, width), kernel, stride = self.size, self.kernel, self.stride
        return (height - kernel[0]) // stride[0] + 1, (width - kernel[1]) // stride[1] + 1

    @property
    def depth(self) -> int:
        """Words of the ring of the serial form.

        A window's lines and pixels, and what comes while one is put out: the pixels that the next
        window of the row needs beyond it, or the next row's first; fewer where windows are put out
        faster than pixels come. A depthwise window frees no fold before it has put out the last.
        """
        (kernel_h, kernel_w), (stride_h, stride_w) = self.kernel, self.stride
        height, width = self.size
        columns = self.windows[1]
        next_row = min(stride_h, height) * width - (columns - 1) * stride_w
        behind = columns * max(0, kernel_h * kernel_w - stride_w)
        pixels = (kernel_h - 1) * width + kernel_w + min(max(stride_w, next_row), behind)
        held = (stride_w - 1) * (self.folds - 1) if self.depthwise else 0
        return pixels * self.folds + held + ON_THE_WAY


class ConvolutionInputGenerator(Operator):
    """``(n, H, W, C)`` to windows ``(n, H', W', kh * kw * C)``, taps outermost.

    SIMD channels of a tap a cycle, or in the parallel form all taps of SIMD channels.
    """

    folded_by = ("SIMD", "parallel_window")
    moves_only = True

    def execute(self, inputs: list[np.ndarray]) -> np.ndarray:
        """Return the windows."""
        kernel, strides = self.attributes["ConvKernelDim"], self.attributes["Stride"]
        views = np.lib.stride_tricks.sliding_window_view(inputs[0], tuple(kernel), axis=(1, 2))
        views = views[:, :: strides[0], :: strides[1]]  # (n, OH, OW, C, kh, kw)
        n, height, width = views.shape[:3]
        return views.transpose(0, 1, 2, 4, 5, 3).reshape(n, height, width, -1)

    def streamed(self, tensor: np.ndarray) -> np.ndarray:
        """Return the windows as they come.

        All taps of SIMD channels come first where a depthwise unit follows, and in a beat of the
        parallel form; else all channels of a tap.
        """
        if not self.attributes["depthwise"] and not self.parallel:
            return tensor
        split = tensor.reshape(*tensor.shape[:-1], self.taps, -1, self.attributes["SIMD"])
        return np.swapaxes(split, -3, -2).reshape(tensor.shape)

    def channels(self) -> int:
        """Return the channels."""
        return int(self.attributes["IFMChannels"])

    def foldings(self) -> Iterator[Folding]:
        """Yield some channels a cycle, or the parallel form with all of them."""
        for simd in legal_divisors(self.channels()):
            yield {"SIMD": simd, "parallel_window": 0}
        if math.prod(self.attributes["ConvKernelDim"]) > 1:
            yield {"SIMD": self.channels(), "parallel_window": 1}

    def cycles(self) -> int:
        """Return the cycles as FINN+'s ``ConvolutionInputGenerator_rtl`` counts them."""
        a = self.attributes
        (kernel_h, kernel_w), (height, width) = a["ConvKernelDim"], a["IFMDim"]
        (out_h, out_w), (stride_h, stride_w) = a["OFMDim"], a["Stride"]
        folds = a["IFMChannels"] // a["SIMD"]
        if (a["parallel_window"] and kernel_h * kernel_w > 1) or kernel_h * kernel_w == 1:
            return height * width * folds + 2
        if height == 1 or width == 1:
            along_width = (width, out_w, kernel_w, stride_w)
            along_height = (height, out_h, kernel_h, stride_h)
            length, out, kernel, stride = along_width if height == 1 else along_height
            if not a["depthwise"]:
                return out * kernel * folds + 2
            produced = out * kernel * folds + (folds - 1) * kernel
            consumed = length * folds + folds * (kernel - 1) * (stride - 1)
            return max(produced, consumed) + 2
        fill = ((kernel_h - 1) * width + kernel_w) * folds
        row = max(out_w * kernel_w * kernel_h * folds, stride_w * width * folds)
        if a["depthwise"]:
            row += out_w * (stride_w - 1) * (folds - 1)
            fill += (stride_h - 1) * width * folds
        return fill + out_h * row

    def rows(self) -> Rows:
        """Return that a window waits for its last row; the rows of a line are one."""
        a = self.attributes
        if a["IFMDim"][0] == 1:
            return Rows()
        return Rows("window", a["Stride"][0], a["ConvKernelDim"][0])

    def dtype(self, index: int, *, output: bool) -> str:
        """Return the type of both streams."""
        return str(self.attributes["inputDataType"])

    def lanes(self, index: int, *, output: bool) -> int:
        """Return SIMD channels, of all taps where the output is parallel."""
        a = self.attributes
        return a["SIMD"] * (math.prod(a["ConvKernelDim"]) if output and a["parallel_window"] else 1)

    @property
    def parallel(self) -> bool:
        """Whether a beat holds a whole window; a window of one pixel never needs to."""
        return bool(self.attributes["parallel_window"]) and self.taps > 1

    @property
    def taps(self) -> int:
        """Pixels of a window."""
        return math.prod(self.attributes["ConvKernelDim"])

    def geometry(self) -> Geometry:
        """Return the sizes of the RTL."""
        a = self.attributes
        size, kernel, stride = (tuple(a[n]) for n in ("IFMDim", "ConvKernelDim", "Stride"))
        if size[1] == 1:
            size, kernel, stride = size[::-1], kernel[::-1], stride[::-1]
        folds = a["IFMChannels"] // a["SIMD"]
        return Geometry(size, kernel, stride, folds, bool(a["depthwise"]))

    def memories(self) -> tuple[Memory, ...]:
        """Return the memories as the RTL has them, but for those of at most 32 words.

        Serial: the ring. Parallel: the lines above a pixel, and in each group of registers the
        older taps of the other folds.
        """
        word, g = self.stream_bits(0, output=False), self.geometry()
        if not self.parallel:
            return (Memory("line", word, g.depth),)
        line, above = g.size[1] * g.folds, (g.kernel[0] - 1) * word
        # a line of one or two words is in registers
        lines = (Memory("line", above, line),) if above and line > 2 else ()
        older = g.kernel[1] - 1
        if not older or g.folds <= LUTRAM_DEPTH:
            return lines
        widths = [older * bits for bits in self._groups()]
        return (*lines, *(Memory("line", width, g.folds, decided=True) for width in widths))

    def _groups(self) -> list[int]:
        """Return the bits of a column in each group of the output's registers."""
        kernel_h, kernel_w = self.geometry().kernel if self.parallel else (1, 1)
        bits = kernel_h * self.stream_bits(0, output=False)
        group = max(1, GROUP_LOADS // kernel_w)
        return [min(group, bits - start) for start in range(0, bits, group)]

    def resources(self) -> Resources:
        """The registers, the queue and the older taps of up to 32 folds (*rtl*), their control.

        *rtl*: 14 bits of a memory of up to 32 words are 8 LUTs. *yosys*, 20 serial and 18 parallel
        modules of 8 to 384 bits a pixel: the control. The LUTs of 32 are within 10%, of the others
        within 37 LUTs; flip-flops within 5%. What yosys takes to select between block RAMs is not
        counted: the device has cascades.
        """
        g, word = self.geometry(), self.stream_bits(0, output=False)
        groups, folds = self._groups(), count_bits(g.folds)
        queue = _lutram(sum(groups) + 1)
        if not self.parallel:
            run, group = (1, g.folds) if g.depthwise else (g.folds, 1)
            counted = (run * g.kernel[1], group, g.kernel[0], *g.windows)
            counters = sum(map(count_bits, counted))
            address = count_bits(g.depth)
            return Resources(
                queue + 9 * address + 3 * counters - 27, 0, self.memories(),
                2 * word + 23 + 5 * address + 2 * counters,
            )  # fmt: skip
        older = g.kernel[1] - 1
        taps = sum(_lutram(older * bits) for bits in groups) if 1 < g.folds <= LUTRAM_DEPTH else 0
        folded = folds if older else 0
        address = count_bits(g.size[1] * g.folds) if g.kernel[0] > 1 else 0
        counters = folds + sum(map(count_bits, g.size))
        window = (self.taps + g.kernel[0] + 1) * word  # and a column, and the word that is late
        return Resources(
            queue + taps + 31 + 3 * (address + folds) + 2 * len(groups), 0, self.memories(),
            window + 34 + 3 * address + counters + len(groups) * (1 + 2 * folded),
        )  # fmt: skip

    def module(self, constants: Sequence[np.ndarray] = ()) -> RtlModule:
        """Return the RTL; raises :class:`UserError` where SIMD does not divide the channels."""
        a, g = self.attributes, self.geometry()
        self.check()
        dtype = a["inputDataType"]
        return RtlModule(
            "sliding_window",
            SOURCES,
            {
                "SIMD": a["SIMD"],
                "BITS": type_bits(dtype),
                "FOLDS": g.folds,
                "HEIGHT": g.size[0],
                "WIDTH": g.size[1],
                "KERNEL_H": g.kernel[0],
                "KERNEL_W": g.kernel[1],
                "STRIDE_H": g.stride[0],
                "STRIDE_W": g.stride[1],
                "DEPTHWISE": int(g.depthwise),
                "PARALLEL": int(self.parallel),
                "DEPTH": g.depth,
                "STYLE": a.get("ram_style", "auto"),
            },
            (stream("in0_V", dtype, a["SIMD"]),),
            (stream("out0_V", dtype, self.lanes(0, output=True)),),
        )
