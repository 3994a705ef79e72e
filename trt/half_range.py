"""Which products of a float network stay inside the range of FP16, on real images.

Beyond 65504 FP16 has infinity alone, of which the next norm makes NaN: a mask of background, or of
one class. So what an engine is to multiply in FP16 is computed in FP32 first, and what comes too
near to the limit stays FP32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from lmaunet.errors import UserError
from lmaunet.export.passes import array_of, read
from lmaunet.export.reference import open_session
from lmaunet.trt.float_forms import HALF_LARGEST, Product
from lmaunet.trt.layer_precision import norm_nodes

if TYPE_CHECKING:
    import numpy as np
    import onnx

MARGIN = 4.0
"""How many times larger than on the images that were tried a value may become."""
FLOAT_LARGEST = 3.4028234663852886e38


@dataclass(frozen=True)
class HalfRange:
    """The largest magnitudes of a product on some images.

    ``input`` is that of what it multiplies. ``sums`` is the largest sum of the magnitudes of an
    output's products and its bias, which bounds the output and each partial sum, whatever the
    order in which they are added.
    """

    node: str
    input: float
    sums: float

    @property
    def fits(self) -> bool:
        """Whether all of it stays inside FP16, :data:`MARGIN` times larger too."""
        return MARGIN * max(self.input, self.sums) <= HALF_LARGEST


def half_ranges(
    model: onnx.ModelProto, found: Sequence[Product], images: np.ndarray
) -> list[HalfRange]:
    """Return the range of each product of a float graph on images ``(n, channels, H, W)``.

    Raises:
        UserError: where the float network itself computes NaN or infinity, or where the squares
            that a norm adds up, which it does in FP32, come near to the end of FP32's range. They
            are bounded by the sum of the squares of all that goes into it.
    """
    import numpy as np

    probe, products, norms = _probe(model, found)
    session = open_session(probe, optimize=False)
    entry = session.get_inputs()[0].name
    names = [*(name for pair in products.values() for name in pair), *norms.values()]
    largest = np.zeros(len(names))
    for image in np.ascontiguousarray(images, np.float32):
        logits, *seen = session.run([model.graph.output[0].name, *names], {entry: image[None]})
        magnitudes = np.array([float(value) for value in seen])
        if not np.isfinite(logits).all() or not np.isfinite(magnitudes[: 2 * len(found)]).all():
            raise UserError(
                "the float network itself computes NaN or infinity for a training image; look at "
                "its weights and at how images are normalised, and run lmaunet-deploy qat again"
            )
        largest = np.maximum(largest, np.where(np.isnan(magnitudes), np.inf, magnitudes))
    for name, squares in zip(norms, largest[2 * len(found) :], strict=True):
        if not MARGIN**2 * squares <= FLOAT_LARGEST:
            raise UserError(
                f"{name}: the squares of what it normalizes add up to {squares:.3g}, near the end "
                f"of FP32's range ({FLOAT_LARGEST:.3g}); make the weights before it smaller by a "
                "power of two, which the norm takes out again, and build again"
            )
    pairs = largest[: 2 * len(found)].reshape(-1, 2)
    return [
        HalfRange(product.node, float(of_input), float(of_sums))
        for product, (of_input, of_sums) in zip(found, pairs, strict=True)
    ]


def _probe(
    model: onnx.ModelProto, found: Sequence[Product]
) -> tuple[onnx.ModelProto, dict[str, tuple[str, str]], dict[str, str]]:
    """Return the graph with further outputs, numbers, and their names by product and by norm."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    graph = probe.graph
    nodes = {node.name: node for node in model.graph.node}
    stored = {value.name: value for n in read(model).graph for value in n.inputs if value}

    def add(op_type: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        graph.node.append(helper.make_node(op_type, list(inputs), [output], output, **attributes))
        return output

    products, norms = {}, {}
    for product in found:
        node, base = nodes[product.node], f"{product.node}/range"
        magnitude = add("Abs", [node.input[0]], f"{base}/abs")
        operands = [magnitude]
        for name in node.input[1:]:
            array = np.abs(array_of(stored[name]))
            graph.initializer.append(numpy_helper.from_array(array, f"{base}/{name}"))
            operands.append(f"{base}/{name}")
        summed = onnx.NodeProto()
        summed.CopyFrom(node)
        summed.name = f"{base}/product"
        summed.input[:], summed.output[:] = operands, [summed.name]
        graph.node.append(summed)
        products[product.node] = (
            add("ReduceMax", [magnitude], f"{base}/input", keepdims=0),
            add("ReduceMax", [summed.name], f"{base}/sums", keepdims=0),
        )
    for name in sorted(norm_nodes(model)):
        squares = f"{name}/range/squares"
        norms[name] = add("ReduceSumSquare", [nodes[name].input[0]], squares, keepdims=0)
    added = [*(output for pair in products.values() for output in pair), *norms.values()]
    graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, []) for name in added
    )
    return probe, products, norms


def kept_in_float(ranges: Sequence[HalfRange]) -> list[HalfRange]:
    """Return the products that stay FP32; raises UserError where these are all."""
    kept = [entry for entry in ranges if not entry.fits]
    if kept and len(kept) == len(ranges):
        worst = max(kept, key=lambda entry: max(entry.input, entry.sums))
        raise UserError(
            f"every one of the {len(kept)} products comes near the end of FP16's range: "
            f"{worst.node} adds up to {worst.sums:.3g}, of inputs up to {worst.input:.3g}, and "
            f"{MARGIN:g} times that is to stay below {HALF_LARGEST:g}; build with --precision int8 "
            "or fp32"
        )
    return kept


def range_detail(ranges: Sequence[HalfRange], images: int) -> dict[str, Any]:
    """Return what a report says of the ranges: images tried, margin, the largest, what is FP32."""
    inside = [entry for entry in ranges if entry.fits]
    worst = max(inside, key=lambda entry: max(entry.input, entry.sums), default=None)
    return {
        "images": images,
        "margin": MARGIN,
        "products": len(ranges),
        "largest_in_half": None if worst is None else asdict(worst),
        "in_fp32": [asdict(entry) for entry in ranges if not entry.fits],
    }
