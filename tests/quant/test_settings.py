"""What quantization may be told, and which numbers it takes where nothing is said."""

from __future__ import annotations

import functools

import pytest
import torch

from lmaunet.errors import UserError
from lmaunet.graph.layers import weight_layers
from lmaunet.net.network import LMaUNet
from lmaunet.quant import allocation, budget, calibration, convolution, qat, scan_formats
from lmaunet.quant.bits import protected_layers, read_rules, resolve_bits
from lmaunet.quant.network import count_weight_bits, graph_of, weight_bits
from lmaunet.quant.packed import packed_bytes
from lmaunet.quant.settings import QatSettings
from lmaunet.spec import SPECS
from lmaunet.train.schedule import Schedule

SCHEDULE = Schedule(5, 0.25, 3)


@functools.cache
def graph_of_spec(name):
    """The graph of a named spec, for its smallest image."""
    spec = SPECS[name]
    return graph_of(LMaUNet(spec), (1, spec.in_channels, *[spec.size_multiple] * 2))[0]


def parse_bits(graph, text):
    return resolve_bits(graph, read_rules(text))


def test_what_is_not_said_is_plain_int8():
    settings = QatSettings(SCHEDULE)
    assert settings.to_json() == {
        "schedule": SCHEDULE.to_json(), "bits": [], "budget_bytes": None, "scales": "free",
        "distillation": 0.0, "keep_norms": True, "explain": False, "joins": "",
    }  # fmt: skip


def test_settings_are_written_as_they_were_given():
    given = {"bits": (("a.b", 4), ("*", 2)), "budget_bytes": None, "scales": "pow2",
             "distillation": 0.5, "keep_norms": False, "explain": True,
             "joins": "scaled"}  # fmt: skip
    assert QatSettings(SCHEDULE, **given).to_json() == given | {
        "schedule": SCHEDULE.to_json(), "bits": [["a.b", 4], ["*", 2]],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "good", "bad", "said"),
    [
        ("budget_bytes", [1, 10**12], [0, -1], "a budget of .* MB; give a positive size"),
        ("distillation", [0, 1e-9, 1e9], [-1e-9, float("inf"), float("nan")], "give 0 or a posi"),
        ("scales", ["free", "pow2"], ["", "a", "zzz"], "use one of: free, pow2"),
    ],
)
def test_settings_are_held_to_their_range(name, good, bad, said):
    for value in good:
        assert getattr(QatSettings(SCHEDULE, **{name: value}), name) == value
    for value in bad:
        with pytest.raises(UserError, match=said):
            QatSettings(SCHEDULE, **{name: value})


def test_bits_and_a_budget_exclude_each_other():
    QatSettings(SCHEDULE, bits=(), budget_bytes=5)
    with pytest.raises(UserError, match="exclude each other; give one"):
        QatSettings(SCHEDULE, bits=(("a", 4),), budget_bytes=5)


def test_the_numbers_that_the_documents_name():
    assert (calibration.CALIBRATION_IMAGES, calibration.MINIMUM_IMAGES) == (32, 4)
    assert (calibration.FEW_IMAGES, convolution.SEARCHED) == (16, 40)
    assert (calibration.LARGEST_SHIFT, calibration.LARGEST_SPREAD) == (1.0, 3.0)
    assert (budget.SENSITIVITY_IMAGES, budget.TRIALS) == (8, 5)
    assert (qat.SCAN_IMAGES, qat.EXPLAIN_IMAGES) == (8, 8)
    assert (scan_formats.TARGET_DB, allocation.INDIFFERENCE) == (46.0, 1e-7)


@pytest.mark.parametrize(
    ("text", "rules"),
    [
        ("4", [("*", 4)]), (" 3x3 = 4 ", [("3x3", 4)]), ("=3", [("*", 3)]),
        ("a=2,b=3 , 8", [("a", 2), ("b", 3), ("*", 8)]),
    ],
)  # fmt: skip
def test_rules_are_read_in_their_order(text, rules):
    assert read_rules(text) == rules


def test_of_several_rules_the_last_that_matches_counts():
    graph = graph_of_spec("edge")
    name = "decoder.1.convs.0.conv"
    bits = parse_bits(graph, f"2,decoder*=3,{name}=4")
    assert bits["stages.0.proj"] == 2 and bits["decoder.0.up"] == 3 and bits[name] == 4
    assert set(parse_bits(graph, f"{name}=4,decoder*=3").values()) == {8, 3}
    first, last = protected_layers(graph)
    assert (first, last) == ("shallow.0.conv", "head")
    assert parse_bits(graph, "shallow.0.conv=2,3")["shallow.0.conv"] == 2


def test_dense_is_a_kernel_of_three_without_groups():
    graph = graph_of_spec("base")
    dense = {name for name, bits in parse_bits(graph, "3x3=2").items() if bits == 2}
    with torch.device("meta"):
        modules = LMaUNet(SPECS["base"]).named_modules()
    assert dense | {"shallow.0.conv"} == {
        name for name, module in modules
        if isinstance(module, torch.nn.Conv2d) and module.kernel_size == (3, 3)
        and module.groups == 1
    }  # fmt: skip
    assert dense and all(not name.endswith(".local") for name in dense)


def test_dense_is_a_kernel_of_three_in_three_axes_too():
    net = torch.nn.Sequential(
        torch.nn.Conv3d(1, 2, 3), torch.nn.Conv3d(2, 2, 3), torch.nn.Conv3d(2, 4, (1, 3, 3)),
        torch.nn.Conv3d(4, 4, 3, groups=2), torch.nn.Conv3d(4, 2, 1), torch.nn.Conv3d(2, 3, 1),
    )  # fmt: skip
    graph, _ = graph_of(net, (1, 1, 9, 9, 9))
    bits = parse_bits(graph, "3x3=2")
    assert bits == {"0": 8, "1": 2, "2": 8, "3": 8, "4": 8, "5": 8}


def test_weights_are_counted_by_their_bits():
    graph = graph_of_spec("edge")
    weights = {layer.name: layer.weights for layer in weight_layers(graph)}
    bits = weight_bits(graph, {"shallow.1.conv": 2, "stages.1.proj": 2, "decoder.3.up": 3})
    narrow = weights["shallow.1.conv"] + weights["stages.1.proj"]
    assert count_weight_bits(graph, bits) == {
        8: sum(weights.values()) - narrow - weights["decoder.3.up"], 2: narrow,
        3: weights["decoder.3.up"],
    }  # fmt: skip
    assert allocation.weight_bytes(graph, bits) == sum(
        packed_bytes(count, bits[name]) for name, count in weights.items() if count
    )


def test_an_allocation_has_a_row_for_each_layer_with_weights():
    graph = graph_of_spec("demo")
    least = allocation.smallest_bits(graph)
    cost = {name: {2: 4e-3, 3: 3e-3, 4: 2e-3, 8: 1e-3} for name in least}
    chosen = allocation.allocate(graph, cost, allocation.weight_bytes(graph, least) + 999)
    rows = chosen.rows(graph)
    assert [row["layer"] for row in rows] == list(least)
    for row in rows:
        assert row["bytes"] == packed_bytes(row["weights"], row["bits"])
        assert row["bits"] == chosen.bits[row["layer"]]
        assert row["sensitivity"] == {"2": 4e-3, "3": 3e-3, "4": 2e-3, "8": 1e-3}
    assert sum(row["bytes"] for row in rows) == chosen.weight_bytes <= chosen.budget_bytes
