import copy
import functools
import itertools

import numpy as np
import pytest
import torch

from lmaunet.errors import UserError
from lmaunet.graph.layers import weight_layers
from lmaunet.graph.module import execute
from lmaunet.graph.rewrites import fold_norms
from lmaunet.graph.scan_dependent import scan_dependent_layers
from lmaunet.net.network import LMaUNet
from lmaunet.quant import allocation, sensitivity
from lmaunet.quant.allocation import allocate, smallest_bits, weight_bytes
from lmaunet.quant.bits import protected_layers, read_rules, resolve_bits
from lmaunet.quant.network import graph_of
from lmaunet.quant.packed import FEWEST_PACKED
from lmaunet.quant.settings import SCALES, WEIGHT_BITS
from lmaunet.spec import SPECS, NetSpec

SILENT = lambda fraction, line: None  # noqa: E731


SMALL = NetSpec("small", (4, 8, 8, 8, 8), states=2, kernels=(3, 3, 3, 3), input_size=(32, 32))
WIDE = NetSpec("w", (8, 24, 24, 32, 48), states=2, kernels=(3, 3, 3, 3), input_size=(32, 32))


@functools.cache
def graph_and_weights(spec):
    """The network of a spec, for its smallest image."""
    return graph_of(LMaUNet(spec), (1, spec.in_channels, *spec.size_multiples))


def graph_for(spec):
    return graph_and_weights(spec)[0]


def parse_bits(graph, text):
    return resolve_bits(graph, read_rules(text))


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_every_layer_with_weights_is_found_in_the_network(spec):
    with torch.device("meta"):
        modules = LMaUNet(spec).named_modules()
    kinds = torch.nn.Conv1d | torch.nn.Conv2d | torch.nn.Conv3d | torch.nn.Linear
    assert {layer.name: layer.weights for layer in weight_layers(graph_for(spec))} == {
        name: module.weight.numel() for name, module in modules if isinstance(module, kinds)
    }
    names = sensitivity.weights_by_layer(graph_for(spec))
    assert names == {
        layer.name: [f"{layer.name}.weight"] for layer in weight_layers(graph_for(spec))
    }


def test_rules_for_bits():
    graph = graph_for(SPECS["edge"])
    bits = parse_bits(graph, "3x3=4, decoder.3.*=3, head=4")
    assert bits["decoder.1.convs.0.conv"] == bits["shallow.1.conv"] == 4
    assert bits["decoder.3.convs.0.conv"] == bits["decoder.3.up"] == 3
    assert bits["stages.0.local"] == 8, "a depthwise convolution is not dense"
    assert bits["shallow.0.conv"] == 8, "the first layer is protected from patterns"
    assert bits["head"] == 4, "a layer named in full is not"
    everywhere = parse_bits(graph, "3")
    assert {name for name, n in everywhere.items() if n != 3} == set(protected_layers(graph))


@pytest.mark.parametrize("text", ["", "3x3", "5", "3x3=5", "decoder9=4", "x=", "3x3=4,,"])
def test_rules_that_cannot_be_read(text):
    with pytest.raises(UserError, match="--bits"):
        parse_bits(graph_for(SPECS["edge"]), text)


def random_sensitivity(graph, seed):
    rng = np.random.default_rng(seed)
    return {
        layer.name: dict(
            zip(WEIGHT_BITS, sorted(rng.exponential(1e-3, 4), reverse=True), strict=True)
        )
        for layer in weight_layers(graph)
    }


def test_the_allocation_is_the_best_of_all():
    """Against trying everything, on a network where six layers are free."""
    graph = graph_for(SMALL)
    found = random_sensitivity(graph, 0)
    free = ["shallow.1.conv", "pyramid.reduce", "pyramid.out.conv", "decoder.0.up",
            "decoder.0.convs.0.conv"]  # fmt: skip
    # every other layer is indifferent at any width, so that the solver takes the fewest bytes
    for name in found:
        if name not in free:
            found[name] = dict.fromkeys(WEIGHT_BITS, 0.0)
    least = smallest_bits(graph)
    budget = weight_bytes(graph, least) + 700
    best = min(
        sum(found[n][b] for n, b in zip(free, widths, strict=True))
        for widths in itertools.product(WEIGHT_BITS, repeat=len(free))
        if weight_bytes(graph, least | dict(zip(free, widths, strict=True))) <= budget
    )
    chosen = allocate(graph, found, budget)
    assert chosen.weight_bytes == weight_bytes(graph, chosen.bits) <= budget
    assert sum(found[n][chosen.bits[n]] for n in found) == pytest.approx(best, rel=1e-6)


@pytest.mark.parametrize("quiet", WEIGHT_BITS[:-1])
def test_a_width_that_seems_better_than_a_wider_one_is_no_better(quiet):
    """Sensitivities are measured, with noise: fewer bits that seem to lose less gain nothing."""
    graph = graph_for(SMALL)
    found = {
        layer.name: {bits: 0.0 if bits == quiet else 1e-3 for bits in WEIGHT_BITS}
        for layer in weight_layers(graph)
    }
    room = weight_bytes(graph, dict.fromkeys(found, 8))
    assert set(allocate(graph, found, room).bits.values()) == {8}
    # and a layer whose noise says so is not narrowed before one that loses by each bit
    falling = dict(zip(WEIGHT_BITS, (4e-3, 2e-3, 1e-3, 0.0), strict=True))
    noisy = dict(zip(WEIGHT_BITS, (4e-3, 2e-3, 1e-3, 1e-3), strict=True))
    found["shallow.1.conv"] = falling
    found["decoder.0.convs.0.conv"] = noisy | {quiet: 0.0}
    one_byte_short = allocate(graph, found, room - 1).bits
    assert one_byte_short["shallow.1.conv"] == 8


@pytest.mark.parametrize("seed", range(5))
def test_budgets_are_kept_and_protected_layers_stay(seed):
    graph = graph_for(SPECS["base"])
    for budget in (2_900_000, 4_000_000, 5_500_000, 11_500_000):
        chosen = allocate(graph, random_sensitivity(graph, seed), budget)
        assert chosen.weight_bytes <= budget
        assert all(chosen.bits[name] == 8 for name in protected_layers(graph))
    assert set(chosen.bits.values()) == {8}, "with room for all, all have 8 bits"


def test_layers_that_scans_depend_on_stay_int8_unless_the_budget_forbids_it():
    graph = graph_for(SPECS["base"])
    found = random_sensitivity(graph, 0)
    dependent = [name for name in found if name.startswith("stages")]
    wide = allocate(graph, found, 6_000_000)
    assert wide.scans_int8 and all(wide.bits[name] == 8 for name in dependent)
    tight = allocate(graph, found, 4_000_000)
    assert not tight.scans_int8 and any(tight.bits[name] < 8 for name in dependent)


def test_a_network_without_scans_has_all_its_scans_in_int8():
    graph = graph_for(WIDE.replace(mamba="none"))
    least = smallest_bits(graph)
    chosen = allocate(graph, random_sensitivity(graph, 0), weight_bytes(graph, least))
    wide = [layer.name for layer in weight_layers(graph) if layer.weights >= FEWEST_PACKED]
    assert {n: chosen.bits[n] for n in wide} == {n: least[n] for n in wide} and chosen.scans_int8


def test_an_unreachable_budget_is_refused_with_the_smallest_size():
    graph = graph_for(SPECS["base"])
    least = weight_bytes(graph, smallest_bits(graph))
    with pytest.raises(UserError, match=f"{least:,} bytes"):
        allocate(graph, random_sensitivity(graph, 0), least - 1)
    assert allocate(graph, random_sensitivity(graph, 0), least).weight_bytes == least


@pytest.mark.parametrize("scales", SCALES)
def test_sensitivity_is_that_of_each_layer_alone(tiny_model, tiny_data, scales):
    before = copy.deepcopy(tiny_model.state_dict())
    images = tiny_data.train.images[:4]
    graph, weights = graph_of(tiny_model, images.shape)
    kept = copy.deepcopy(weights)
    found = sensitivity.measure(graph, weights, images, SILENT, scales)
    assert all(torch.equal(v, before[k]) for k, v in tiny_model.state_dict().items())
    assert all(np.array_equal(kept[name], weights[name]) for name in weights)
    assert list(found) == [layer.name for layer in weight_layers(graph)]
    assert all(value >= -1e-6 for row in found.values() for value in row.values())
    total = {bits: sum(row[bits] for row in found.values()) for bits in WEIGHT_BITS}
    assert total[2] > total[3] > total[4] > total[8]
    # by hand, for one layer: round what ships and compare the classes' distributions
    name = "decoder.3.convs.0.conv"
    folded, changed = fold_norms(graph, weights)
    with torch.no_grad():
        batch = torch.from_numpy(images)
        own = tiny_model.eval()(batch).log_softmax(1)
        weight = torch.from_numpy(changed[f"{name}.weight"])
        assert not np.array_equal(weight, weights[f"{name}.weight"]), "its norm is folded in"
        changed[f"{name}.weight"] = sensitivity.round_weight(weight, 2, scales).numpy()
        other = execute(folded, changed, batch).log_softmax(1)
    by_hand = float((own.exp() * (own - other)).sum(1).mean())
    assert found[name][2] == pytest.approx(by_hand, rel=1e-4)


@pytest.mark.parametrize(("overstated", "solved"), [(10, True), (16, True), (1000, False)])
def test_a_budget_that_the_solver_oversteps_by_a_few_bytes_is_kept_all_the_same(
    monkeypatch, overstated, solved
):
    """Bits that take a byte more than there is are not returned; 16 bytes less are asked for."""
    graph = graph_for(WIDE)
    found, least = random_sensitivity(graph, 3), smallest_bits(graph)
    own = allocation.weight_bytes
    budget = own(graph, allocation._solve(graph, found, own(graph, least) + 900, least))
    assert own(graph, allocation._solve(graph, found, budget, least)) == budget
    monkeypatch.setattr(allocation, "weight_bytes", lambda *a: own(*a) + overstated)
    if not solved:
        with pytest.raises(RuntimeError, match=f"the integer program oversteps {budget} bytes"):
            allocation._solve(graph, found, budget, least)
        return
    taken = own(graph, allocation._solve(graph, found, budget, least))
    assert own(graph, least) < taken <= budget - 16


def test_nothing_is_printed_while_bits_are_chosen(capfd):
    graph = graph_for(WIDE)
    capfd.readouterr()
    allocate(graph, random_sensitivity(graph, 1), weight_bytes(graph, smallest_bits(graph)) + 900)
    assert capfd.readouterr() == ("", "")


def test_a_problem_without_a_solution_is_an_error():
    graph = graph_for(WIDE)
    found, least = random_sensitivity(graph, 1), smallest_bits(graph)
    with pytest.raises(RuntimeError, match=r"the integer program was not solved: .*kInfeasible"):
        allocation._solve(graph, found, weight_bytes(graph, least) - 1, least)


def test_what_costs_nothing_or_less_takes_all_the_bits_that_there_is_room_for():
    graph = graph_for(WIDE)
    layers = list(smallest_bits(graph))
    for cost in (0.0, -5.0):
        found = {name: dict.fromkeys(WEIGHT_BITS, cost) for name in layers}
        room = weight_bytes(graph, dict.fromkeys(layers, 8))
        assert set(allocate(graph, found, room).bits.values()) == {8}
        assert allocate(graph, found, room - 1).weight_bytes < room


def test_the_first_layer_the_last_and_those_of_scans_have_8_bits_where_that_fits():
    graph = graph_for(WIDE)
    least, dependent = smallest_bits(graph), scan_dependent_layers(graph)
    first, head = protected_layers(graph)
    assert {name: bits for name, bits in least.items() if bits != 2} == {first: 8, head: 8}
    fixed = {name: 8 if name in dependent else bits for name, bits in least.items()}
    size, found = weight_bytes(graph, fixed), random_sensitivity(graph, 2)
    chosen = allocate(graph, found, size)
    wide = [layer.name for layer in weight_layers(graph) if layer.weights >= FEWEST_PACKED]
    assert {n: chosen.bits[n] for n in wide} == {n: fixed[n] for n in wide} and chosen.scans_int8
    assert not allocate(graph, found, size - 1).scans_int8
