"""Which layers get more bits, on trials whose losses are known by layer and width."""

import pytest

from lmaunet.quant import bit_choice
from lmaunet.quant.bit_choice import Choice, Trial, move, rank, widen
from lmaunet.quant.packed import packed_bytes
from lmaunet.quant.settings import WEIGHT_BITS

WEIGHTS = {"a": 1024, "b": 1024, "c": 1024, "d": 8192, "e": 100}
LOSSES = {
    "a": {2: 0.9, 3: 0.7, 4: 0.5, 8: 0.0},
    "b": {2: 4.0, 3: 3.0, 4: 2.0, 8: 0.1},
    "c": {2: 0.3, 3: 0.2, 4: 0.1, 8: 0.0},
    "d": {2: 5.0, 3: 4.0, 4: 2.5, 8: 0.2},
    "e": {2: 0.2, 3: 0.1, 4: 0.05, 8: 0.0},
}


def trial(bits, extra=0.0, asked=None):
    """A trial that loses the sum of its layers' losses in points, a hundredth of it in nats."""

    def drop(changes):
        if asked is not None:
            asked.append(dict(changes))
        return extra + sum(LOSSES[layer][width] for layer, width in {**bits, **changes}.items())

    return Trial(bits, drop, lambda changes: drop(changes) / 100)


def everywhere(bits):
    return dict.fromkeys(WEIGHTS, bits)


def check_order(module):
    """The layer that gives most for its bytes comes first, and alone where it is enough."""
    found = module.widen(trial(everywhere(4)), WEIGHTS, 3.3, 1)
    assert [row["layer"] for row in found.ranking] == ["e", "b", "a", "d", "c"]
    assert found.bits == {**everywhere(4), "e": 8, "b": 8}
    assert found.measured[-1]["drop_points"] <= 3.3


def test_what_gives_most_for_its_bytes_is_widened_first(mutant_of):
    check_order(bit_choice)
    mutant = mutant_of(bit_choice, "key=_gain_per_byte, reverse=True", "key=_gain_per_byte")
    with pytest.raises(AssertionError):
        check_order(mutant)


def test_a_row_says_the_width_the_gain_and_the_bytes():
    rows = {row["layer"]: row for row in rank(trial({**everywhere(3), "a": 8}), WEIGHTS)}
    assert "a" not in rows, "nothing is wider than 8 bits"
    assert (rows["b"]["bits"], rows["b"]["to"]) == (3, 4)
    assert rows["b"]["gain"] == pytest.approx(0.01)
    assert rows["b"]["more_bytes"] == packed_bytes(1024, 4) - packed_bytes(1024, 3) == 128
    # so few weights are stored in 8 bits each anyway
    assert (rows["e"]["to"], rows["e"]["more_bytes"]) == (8, 0)


def test_layers_that_lose_by_more_bits_come_last():
    def far(changes):
        return {"a": 3.0, "b": 2.5, "c": 0.5}.get(next(iter(changes), ""), 2.0)

    rows = rank(Trial(dict.fromkeys("abc", 4), lambda c: 0.0, far), WEIGHTS)
    assert [row["layer"] for row in rows] == ["c", "b", "a"]


@pytest.mark.parametrize("limit", [0.31, 1.0, 3.0, 5.14])
@pytest.mark.parametrize("least", [1, 2, 4, 99])
def test_the_fewest_layers_are_widened_that_keep_the_limit(limit, least):
    asked = []
    found = widen(trial(everywhere(4), asked=asked), WEIGHTS, limit, least)
    order = [row["layer"] for row in found.ranking]
    own = trial(everywhere(4))
    counts = range(min(least, len(order)), len(order) + 1)
    wanted = next(n for n in counts if own.drop_points(dict.fromkeys(order[:n], 8)) <= limit)
    assert found.bits == {**everywhere(4), **dict.fromkeys(order[:wanted], 8)}
    assert {row["layers"] for row in found.measured} <= set(counts)


def test_where_no_number_keeps_the_limit_the_least_loss_is_taken():
    found = widen(trial(everywhere(4)), WEIGHTS, 0.0, 1)
    assert found.bits == everywhere(8)
    best = min(found.measured, key=lambda row: row["drop_points"])
    assert best["drop_points"] == pytest.approx(0.3) and best["layers"] == 5


def test_at_8_bits_there_is_nothing_to_widen():
    assert widen(trial(everywhere(8)), WEIGHTS, 0.0, 1) == Choice(
        None, why="every layer has 8 bits"
    )


def cheapest(budget):
    """An allocation that tries all: the least sum within a budget of bytes; the first stays."""
    import itertools

    def choose(table):
        best = None
        for widths in itertools.product(WEIGHT_BITS, repeat=len(WEIGHTS) - 1):
            bits = dict(zip(WEIGHTS, (8, *widths), strict=True))
            if sum(packed_bytes(WEIGHTS[k], b) for k, b in bits.items()) <= budget:
                lost = sum(table[k][b] for k, b in bits.items())
                best = min(best or (lost, bits), (lost, bits), key=lambda pair: pair[0])
        return None if best is None else best[1]

    return choose


def test_under_a_budget_bits_move_from_layers_that_need_them_least():
    bits = {"a": 8, "b": 2, "c": 8, "d": 3, "e": 8}
    size = sum(packed_bytes(WEIGHTS[k], b) for k, b in bits.items())
    found = move(trial(bits), list("bcde"), cheapest(size), [bits])
    assert sum(packed_bytes(WEIGHTS[k], b) for k, b in found.bits.items()) <= size
    assert found.bits["a"] == 8, "its bits are fixed"
    assert found.bits["b"] > 2 and found.bits["c"] < 8
    lost = trial(bits).drop_points
    assert found.measured == [
        {"layers": sum(found.bits[k] != bits[k] for k in bits), "drop_points": lost(found.bits)}
    ]
    assert lost(found.bits) < lost({})
    gains = {row["layer"]: row["gain"] for row in found.ranking}
    assert set(gains) == set("bcde") and gains["b"]["8"] == pytest.approx(0.039)
    assert gains["c"]["8"] == 0


def test_bits_that_were_tried_already_are_no_other_choice():
    bits = {"a": 8, "b": 2, "c": 8, "d": 3, "e": 8}
    first = move(trial(bits), list("bcde"), cheapest(5000), [bits])
    again = move(trial(bits), list("bcde"), cheapest(5000), [bits, first.bits])
    assert again.bits is None and "no other choice of bits" in again.why
    assert move(trial(bits), list("bcde"), lambda table: None, [bits]).bits is None
