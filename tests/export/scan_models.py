"""Models of one scan, inputs for them, and a float64 oracle with a rounding-error bound."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from lmaunet.export.function import DOMAIN, INPUTS, NAME

# half a unit in the last place of float32
U = 2.0**-24


def scan_node(inputs=INPUTS, output="y", name="scan") -> onnx.NodeProto:
    return helper.make_node(NAME, list(inputs), [output], name=name, domain=DOMAIN)


def info(name: str, *shape) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def make_model(graph: onnx.GraphProto, opset: int = 18) -> onnx.ModelProto:
    imports = [helper.make_opsetid("", opset), helper.make_opsetid(DOMAIN, 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


def scan_model(arrays: dict[str, np.ndarray], batch=None) -> onnx.ModelProto:
    """One scan; x, dt, B and C are inputs, A and D constants. ``batch`` may be a symbol."""
    inputs = [
        info(key, batch or arrays[key].shape[0], *arrays[key].shape[1:])
        for key in ("x", "dt", "B", "C")
    ]
    constants = [numpy_helper.from_array(arrays[key], key) for key in ("A", "D")]
    output = info("y", batch or arrays["x"].shape[0], *arrays["x"].shape[1:])
    return make_model(helper.make_graph([scan_node()], "one_scan", inputs, [output], constants))


def feeds(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {key: arrays[key] for key in ("x", "dt", "B", "C")}


def random_arrays(batch, tokens, channels, states, seed=0, dt_shift=-2.0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    arrays = {
        "x": rng.standard_normal((batch, tokens, channels)),
        "dt": rng.standard_normal((batch, tokens, channels)) + dt_shift,
        "A": -np.exp(rng.uniform(0, np.log(16), (channels, states))),
        "B": rng.standard_normal((batch, tokens, states)),
        "C": rng.standard_normal((batch, tokens, states)),
        "D": rng.standard_normal(channels),
    }
    return {key: value.astype(np.float32) for key, value in arrays.items()}


def oracle(arrays: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return y in float64 and, element by element, a bound of a float32 evaluation's error.

    The bound is the running error analysis of the recurrence, to first order in u = 2**-24. It
    holds for any order of the multiply-adds, as it follows magnitudes, which cannot cancel:

    - softplus as log(1 + exp(dt)) is off by 3 u (1 + delta): it rounds 1 + exp(dt);
    - a = exp(delta A) by a (|A| err(delta) + u |delta A| + 3 u), a product of decays included;
    - b = delta x B by |x B| err(delta) + 2 u |b|;
    - a step by 2 u of its magnitude, the sum over N states by (N + 1) u of its, and D x by 2 u.
    """
    x, dt, A, B, C, D = (arrays[key].astype(np.float64) for key in INPUTS)
    batch, tokens, _ = x.shape
    h = np.zeros((batch, *A.shape))
    magnitude, error = h.copy(), h.copy()
    y, bound = np.empty_like(x), np.empty_like(x)
    for t in range(tokens):
        delta = np.logaddexp(0, dt[:, t])[..., None]
        x_t, B_t, C_t = x[:, t, :, None], B[:, t, None], C[:, t, None]
        a, b = np.exp(delta * A), delta * x_t * B_t
        delta_error = 3 * U * (1 + delta)
        a_error = a * (np.abs(A) * delta_error + U * np.abs(delta * A) + 3 * U)
        b_error = np.abs(x_t * B_t) * delta_error + 2 * U * np.abs(b)
        error = a * error + a_error * magnitude + b_error
        h, magnitude = a * h + b, a * magnitude + np.abs(b)
        error += 2 * U * magnitude
        skip = D * x[:, t]
        y[:, t] = (C_t * h).sum(-1) + skip
        read_magnitude = (np.abs(C_t) * magnitude).sum(-1)
        bound[:, t] = (np.abs(C_t) * error).sum(-1) + (A.shape[1] + 1) * U * read_magnitude
        bound[:, t] += 2 * U * np.abs(skip) + U * np.abs(y[:, t])
    return y, bound
