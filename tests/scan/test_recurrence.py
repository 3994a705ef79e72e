import math

import numpy as np
import pytest

from lmaunet.errors import UserError
from lmaunet.scan import recurrence
from lmaunet.scan.real import LOG2_E, RealAlgebra, selective_scan, trace
from lmaunet.scan.vectors import synthetic

DT_FOR_DELTA_1 = math.log(math.e - 1)  # softplus of it is 1


def tiny():
    """Two tokens, one channel, two states; delta = 1, and the decays are 1/2 and 1/4."""
    x = np.array([[[2.0], [4.0]]])
    dt = np.full((1, 2, 1), DT_FOR_DELTA_1)
    A = -np.log([[2.0, 4.0]])
    B = np.array([[[1.0, 3.0], [1.0, 3.0]]])
    C = np.array([[[1.0, 1.0], [1.0, 2.0]]])
    return x, dt, A, B, C, np.array([0.5])


def test_worked_by_hand():
    # token 1: h = (1*2, 3*2) = (2, 6);                     y = 2 + 6 + 0.5*2 = 9
    # token 2: h = (2/2 + 1*4, 6/4 + 3*4) = (5, 13.5);      y = 5 + 2*13.5 + 0.5*4 = 34
    np.testing.assert_allclose(selective_scan(*tiny())[0, :, 0], [9, 34], rtol=1e-14)


def test_gain_is_applied_to_the_accumulator():
    result = trace(*tiny(), gain=0.25)
    np.testing.assert_allclose(result.accumulator[:, 0, 0], [9, 34], rtol=1e-14)
    np.testing.assert_allclose(result.output[:, 0, 0], [2.25, 8.5], rtol=1e-14)
    np.testing.assert_allclose(result.state[0, 0], [5, 13.5], rtol=1e-14)


def plain_loop(x, dt, A, B, C, D):
    """The formula of Mamba, element by element, with exp and in the usual order."""
    y = np.zeros_like(x)
    for i in range(x.shape[0]):
        h = np.zeros(A.shape)
        for t in range(x.shape[1]):
            for d in range(A.shape[0]):
                delta = math.log1p(math.exp(dt[i, t, d]))
                y[i, t, d] = D[d] * x[i, t, d]
                for n in range(A.shape[1]):
                    h[d, n] = math.exp(delta * A[d, n]) * h[d, n] + delta * B[i, t, n] * x[i, t, d]
                    y[i, t, d] += C[i, t, n] * h[d, n]
    return y


def random_inputs(seed=0, batch=2, length=23, channels=3, states=4):
    rng = np.random.default_rng(seed)
    shape = (batch, length)
    return (
        rng.standard_normal((*shape, channels)),
        rng.standard_normal((*shape, channels)) - 2,
        -np.exp(rng.standard_normal((channels, states))),
        rng.standard_normal((*shape, states)),
        rng.standard_normal((*shape, states)),
        rng.standard_normal(channels),
    )


def test_real_equals_a_plain_loop():
    inputs = random_inputs()
    np.testing.assert_allclose(selective_scan(*inputs), plain_loop(*inputs), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "mutate",
    [
        lambda x, dt, A, B, C, D: (x, dt, A, C, B, D),
        lambda x, dt, A, B, C, D: (x, dt + 1e-6, A, B, C, D),
        lambda x, dt, A, B, C, D: (x, dt, A, B, C, -D),
        lambda x, dt, A, B, C, D: (x[:, ::-1], dt[:, ::-1], A, B[:, ::-1], C[:, ::-1], D),
    ],
    ids=["B and C swapped", "dt moved by 1e-6", "skip subtracted", "tokens in reverse"],
)
def test_plain_loop_catches_a_mutant(mutate):
    inputs = random_inputs()
    mutant = selective_scan(*mutate(*inputs))
    assert not np.allclose(mutant, plain_loop(*inputs), rtol=1e-12, atol=1e-12)


def test_blocks_of_tokens_do_not_change_the_result(monkeypatch):
    vectors = synthetic(3, 4, 50, batch=2)
    whole = vectors.scan.run(*vectors.stimuli)
    monkeypatch.setattr(recurrence, "BLOCK_ELEMENTS", 7 * 2 * 3 * 4)  # 7 tokens, 50 = 7*7 + 1
    blocks = vectors.scan.run(*vectors.stimuli)
    np.testing.assert_array_equal(blocks.accumulators, whole.accumulators)
    np.testing.assert_array_equal(blocks.state, whole.state)
    assert blocks.saturations == whole.saturations


def test_a_batch_equals_its_images_one_by_one():
    vectors = synthetic(3, 4, 20, batch=3)
    batch = vectors.scan.run(*vectors.stimuli)
    for i in range(3):
        alone = vectors.scan.run(*(v[i : i + 1] for v in vectors.stimuli))
        np.testing.assert_array_equal(alone.accumulators[0], batch.accumulators[i])


def test_a_scan_resumes_from_a_state():
    x, dt, A, B, C, D = random_inputs()
    whole = trace(x, dt, A, B, C, D)
    k = RealAlgebra({"rate": -A * LOG2_E, "skip": D, "gain": np.float64(1)})
    inputs = [v.swapaxes(0, 1) for v in (x, dt, B, C)]
    first = recurrence.run(k, *(v[:10] for v in inputs))
    second = recurrence.run(k, *(v[10:] for v in inputs), state=first.state)
    np.testing.assert_array_equal(second.output, whole.output[10:])
    np.testing.assert_array_equal(second.state, whole.state)


def test_observe_sees_every_state_once(monkeypatch):
    monkeypatch.setattr(recurrence, "BLOCK_ELEMENTS", 5 * 2 * 3 * 4)
    seen = []
    result = trace(*random_inputs(), observe=seen.append)
    states = np.concatenate(seen)
    assert states.shape == (23, 2, 3, 4)
    np.testing.assert_array_equal(states[-1], result.state)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": np.zeros((2, 5))}, "x has shape (2, 5); give (batch, L, channels)"),
        ({"x": np.zeros((2, 0, 3))}, "at least one token"),
        ({"C": np.zeros((2, 5, 4))}, "C has shape (2, 5, 4), expected (2, 23, 4)"),
        ({"D": np.zeros(4)}, "D has shape (4,), expected (3,)"),
        ({"A": np.ones((3, 4))}, "A has shape (3, 4) and is not all negative and finite"),
        ({"A": np.full((3, 4), np.nan)}, "give -exp(A_log) as (channels, states)"),
    ],
)
def test_inputs_that_do_not_fit(change, message):
    inputs = dict(zip(("x", "dt", "A", "B", "C", "D"), random_inputs(), strict=True)) | change
    with pytest.raises(UserError) as raised:
        selective_scan(**inputs)
    assert message in str(raised.value)
