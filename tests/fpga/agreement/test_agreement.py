from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest

from lmaunet.errors import Disagreement
from lmaunet.fpga.agreement import nodes as agreement
from lmaunet.fpga.agreement.nodes import (
    NodeCheck,
    check_against_nodes,
    check_network,
    host_codes,
    host_logits,
    summarize,
    with_flips,
)
from lmaunet.fpga.operators.arithmetic import Rescaling, requantize
from lmaunet.fpga.operators.registry import OPERATORS


def check(case, tmp_path) -> NodeCheck:
    result = NodeCheck(case.lowered, case.executor, tmp_path)
    for i in range(len(case.images)):
        image = {name: value[i : i + 1] for name, value in case.seen.items()}
        result.add(case.images[i : i + 1], image)
    return result


def test_every_node_agrees_with_the_qonnx_model(whole, tmp_path):
    nodes = check(whole, tmp_path).results()
    kinds = [n.kind for n in nodes]
    assert {kind: kinds.count(kind) for kind in kinds} == {
        "rounded": 20, "table": 2, "exact": 6, "scan": 1,
    }  # fmt: skip
    assert all(n.max_abs <= 1 for n in nodes)
    rounded, table, exact, scan = summarize(nodes)
    assert rounded.n_differ <= rounded.allowed < 0.02 * rounded.n_total
    assert table.n_differ <= table.allowed < 0.1 * table.n_total
    assert exact.n_differ == exact.allowed == 0
    assert scan.n_differ <= scan.allowed < 0.05 * scan.n_total


def test_the_scan_keeps_the_quality_of_its_8_bit_output(whole, tmp_path):
    scan = next(n for n in check(whole, tmp_path).results() if n.kind == "scan")
    assert scan.ideal_sqnr_db > 30
    assert scan.sqnr_db > scan.ideal_sqnr_db - 1
    assert 0 < scan.bound_codes < 0.1
    assert scan.saturated == 0


def mutant(monkeypatch, op_type, function):
    """Let the batch executor compute an operator by another function of its attributes."""
    kind, honest = OPERATORS[op_type], OPERATORS[op_type].execute
    monkeypatch.setattr(kind, "execute", lambda self, inputs: function(self.attributes, inputs))
    return lambda a, inputs: honest(kind(a), inputs)


def test_truncation_in_requantize_is_caught(whole, tmp_path, monkeypatch):
    def truncating(a, inputs):
        x, *parameters = (v.astype(np.int64) for v in inputs)
        return requantize(x, Rescaling(*parameters), a["Low"], a["High"], truncate=True)

    mutant(monkeypatch, "Requantize", truncating)
    with pytest.raises(Disagreement, match=r"hardware node for .* away from a tie: "):
        check(whole, tmp_path)


def test_a_border_of_zero_under_a_signed_pool_is_caught(whole, tmp_path, monkeypatch):
    pad = mutant(monkeypatch, "PadWithCode", lambda a, inputs: pad(a | {"Code": 0}, inputs))
    with pytest.raises(Disagreement, match="hardware node for maxpool"):
        check(whole, tmp_path)


def test_a_scan_that_forgets_its_state_is_caught(whole, tmp_path, monkeypatch):
    def forgetting(a, inputs):
        half = inputs[0].shape[2] // 2
        parts = [
            scan(a, [v[:, :, part] for v in inputs[:4]] + inputs[4:])
            for part in (slice(half), slice(half, None))
        ]
        return np.concatenate(parts, 2)

    scan = mutant(monkeypatch, "SelectiveScan", forgetting)
    with pytest.raises(Disagreement, match="beyond half a code and the derived bound"):
        check(whole, tmp_path)


def test_the_executor_gives_the_integers_of_every_node(whole, tmp_path):
    codes = host_codes(whole.lowered.host, whole.images[:1])
    agreement = check_against_nodes(whole.model, whole.executor, codes, tmp_path)
    assert agreement.n_differ == 0
    assert agreement.n_total > 50_000


def test_an_executor_that_differs_from_a_node_is_caught(whole, tmp_path, monkeypatch):
    mutant(monkeypatch, "VVAU", lambda a, inputs: inputs[0][..., : a["Channels"]])
    codes = host_codes(whole.lowered.host, whole.images[:1])
    with pytest.raises(Disagreement, match=r"VVAU .*: batch executor: "):
        check_against_nodes(whole.model, whole.executor, codes, tmp_path)


def test_the_whole_network_agrees(whole, tmp_path):
    host = whole.lowered.host
    expected = whole.reference.run(whole.images)[whole.reference.output]
    logits = host_logits(host, whole.executor.run(host_codes(host, whole.images)))
    agreements, figures = check_network(whole.lowered, logits, expected, tmp_path)
    assert all(a.passed for a in agreements)
    assert figures["logits_sqnr_db"] > 25
    assert figures["classes_equal"] > 0.95


def test_logits_of_another_scale_are_caught(whole, tmp_path):
    host = whole.lowered.host
    wrong = dataclasses.replace(host, output_scale=host.output_scale * 1.3)
    expected = whole.reference.run(whole.images)[whole.reference.output]
    logits = host_logits(wrong, whole.executor.run(host_codes(host, whole.images)))
    with pytest.raises(Disagreement, match=r"dB of signal to noise .* expected 20 dB or more"):
        check_network(whole.lowered, logits, expected, tmp_path)


def logits_with_one_margin(deviations):
    """Logits of three classes; in one pixel the wrong one wins, by so many deviations."""
    rng = np.random.default_rng(0)
    expected = np.zeros((1, 3, 64, 64), np.float32)
    expected[0, 0], expected[0, 1] = 30.0, -30.0
    logits = expected + rng.normal(0.0, 1.0, expected.shape).astype(np.float32)
    expected[0, :, 5, 9] = (0.0, 0.0, -30.0)
    logits[0, :, 5, 9] = (0.0, 1.0, -30.0)
    # the difference's deviation hardly changes with one pixel in 4096
    expected[0, 0, 5, 9] = deviations * (logits - expected).std()
    logits[0, 1, 5, 9] = expected[0, 0, 5, 9] / 2
    logits[0, 0, 5, 9] = expected[0, 0, 5, 9] / 2 - 1.0
    return logits, expected


def test_a_class_that_is_decided_may_not_differ(tmp_path):
    logits, expected = logits_with_one_margin(2 * 6.0 + 0.5)
    with pytest.raises(Disagreement, match=r"where QONNX's are decided: 1 of 4096 elements") as e:
        check_network(None, logits, expected, tmp_path)
    assert "first at index (0, 5, 9): got 1, expected 0" in str(e.value)


def test_a_class_that_is_not_decided_may_differ(tmp_path):
    logits, expected = logits_with_one_margin(2 * 6.0 - 0.5)
    (decided, whole_map), figures = check_network(None, logits, expected, tmp_path)
    assert (decided.n_differ, decided.n_total, decided.allowed) == (0, 4096, 0)
    assert (whole_map.n_differ, whole_map.allowed) == (1, 1)
    assert figures["classes_equal"] == 4095 / 4096
    assert figures["logits_max_abs"] == np.abs(logits - expected).max()
    assert figures["margin_deviations"] == pytest.approx(2 * 6.0 - 0.5, rel=0.03)


def noise_in_one_place():
    """Logits of a large map whose difference is ten times as large in a strip, as behind a scan."""
    rng = np.random.default_rng(0)
    expected = np.zeros((1, 3, 128, 128), np.float32)
    expected[0, 0], expected[0, 1] = 40.0, -40.0
    scale = np.full((128, 128), 0.1)
    scale[40:70, 20:110] = 1.0
    return expected + (scale * rng.normal(0.0, 1.0, expected.shape)).astype(np.float32), expected


def differ(logits, expected, rows, columns, margin):
    """Let another class win by a little where the expected one does by a margin."""
    expected[0, 0, rows, columns], expected[0, 1, rows, columns] = margin, 0.0
    logits[0, 0, rows, columns], logits[0, 1, rows, columns] = margin / 2 - 0.1, margin / 2


def test_noise_is_judged_where_it_is(tmp_path):
    """A margin that noise elsewhere does not excuse may differ within the strip, not outside."""
    logits, expected = noise_in_one_place()
    margin = 7.0
    assert 2 * 6.0 * (logits - expected).std() < margin < 2 * 6.0 * 0.75
    differ(logits, expected, 55, 60, margin)
    (decided, whole_map), figures = check_network(None, logits, expected, tmp_path)
    assert decided.n_differ == 0 and whole_map.n_differ == 1
    # between what the strip and what the whole map have
    assert margin < figures["margin_deviations"] < margin / (logits - expected).std()
    differ(logits, expected, 110, 60, margin)
    with pytest.raises(Disagreement, match=r"1 of 16384 elements .* index \(0, 110, 60\)"):
        check_network(None, logits, expected, tmp_path)


@pytest.mark.parametrize("across", [1, 3, 9])
def test_a_fault_does_not_excuse_itself(tmp_path, across):
    """Its own difference is not noise around it; in the corner, too."""
    for start in (0, 80):
        logits, expected = noise_in_one_place()
        place = slice(start, start + across)
        differ(logits, expected, place, place, 20.0)
        with pytest.raises(Disagreement, match=rf": {across**2} of 16384 elements"):
            check_network(None, logits, expected, tmp_path)


def test_the_sum_around_a_pixel_is_worked_by_hand():
    maps = np.arange(12.0).reshape(1, 3, 4)
    found = agreement._box_sums(maps, 3)
    assert found[0, 0, 0] == 0 + 1 + 4 + 5
    assert found[0, 1, 1] == sum((0, 1, 2, 4, 5, 6, 8, 9, 10))
    assert found[0, 2, 3] == 6 + 7 + 10 + 11
    assert (agreement._box_sums(maps, 9) == maps.sum()).all(), "larger than the map"


def test_the_ratio_of_logits_is_worked_by_hand(tmp_path):
    expected = np.array([0.0, 10.0, 0.0, 10.0], np.float32).reshape(1, 2, 2, 1) + 100.0
    sign = np.array([1, -1, -1, 1], np.float32).reshape(expected.shape)
    # the mean is no signal: 25 of power, over 0.25 and over 1/64 of noise
    for noise, ratio in ((0.5, 20.0), (0.125, 32.0412)):
        _, figures = check_network(None, expected + noise * sign, expected, tmp_path)
        assert figures["logits_sqnr_db"] == pytest.approx(ratio, abs=1e-4)
    with pytest.raises(Disagreement, match=r"have 19.7 dB"):
        check_network(None, expected + 0.52 * sign, expected, tmp_path)


def test_batches_change_nothing(whole):
    codes = host_codes(whole.lowered.host, whole.images)
    together = whole.executor.run(codes)
    alone = [whole.executor.run(copy.copy(codes[i : i + 1])) for i in range(len(codes))]
    assert np.array_equal(together, np.concatenate(alone))


@pytest.mark.parametrize(("own_share", "agrees"), [(0.4, True), (0.2, False)])
def test_a_network_that_makes_much_of_a_code_has_its_own_noise_for_a_limit(
    tmp_path, own_share, agrees
):
    """The hardware differs by 0.5 of the signal; twice the power of the own noise may be."""
    random = np.random.default_rng(0)
    expected = random.normal(size=(1, 2, 64, 64))
    noise, other = 0.5 * random.normal(size=(2, 1, 2, 64, 64))
    own = expected + own_share / 0.5 * other
    asked = []

    def own_logits():
        asked.append(1)
        return own

    if not agrees:
        with pytest.raises(Disagreement, match=r"have 6\.\d dB .* expected 11 dB or more"):
            check_network(None, expected + noise, expected, tmp_path, own_logits)
        return
    _, figures = check_network(None, expected + noise, expected, tmp_path, own_logits)
    assert asked and figures["own_sqnr_db"] == pytest.approx(8.0, abs=0.2)
    asked.clear()
    check_network(None, expected + 0.01 * noise, expected, tmp_path, own_logits)
    assert not asked


def test_flips_are_one_code_of_few_values(whole):
    host = whole.lowered.host
    flipped = with_flips(host, whole.images)
    steps = (flipped - whole.images) / host.input_scale
    changed = np.abs(steps) > 0.5
    np.testing.assert_allclose(np.abs(steps[changed]), 1, rtol=1e-4)
    assert 0 < changed.mean() < 3 / 256
