import copy
import itertools

import numpy as np
import pytest
import torch

from lmaunet.errors import UserError
from lmaunet.net.fold import fold
from lmaunet.net.layers import weights_of
from lmaunet.net.network import LMaUNet
from lmaunet.quant import allocation, sensitivity
from lmaunet.quant.allocation import LKM_PARTS, allocate, is_lkm, smallest_bits, weight_bytes
from lmaunet.quant.bits import parse_bits, protected_layers
from lmaunet.quant.packed import FEWEST_PACKED
from lmaunet.quant.settings import SCALES, WEIGHT_BITS
from lmaunet.spec import SPECS, NetSpec

SILENT = lambda fraction, line: None  # noqa: E731


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_every_layer_with_weights_is_found_in_the_network(spec):
    weights = weights_of(LMaUNet(spec))
    assert {k: v.numel() for k, v in weights.items()} == {
        layer.path: layer.weights for layer in spec.layers() if layer.weights
    }
    assert len({id(v) for v in weights.values()}) == len(weights)


def test_rules_for_bits():
    spec = SPECS["edge"]
    bits = parse_bits(spec, "3x3=4, decoder0.*=3, head.head=4")
    assert bits["decoder2.conv0"] == bits["shallow.1"] == 4
    assert bits["decoder0.conv0"] == bits["decoder0.up"] == 3
    assert bits["lkm1.local"] == 8, "a depthwise convolution is not dense"
    assert bits["shallow.0"] == 8, "the first layer is protected from patterns"
    assert bits["head.head"] == 4, "a layer named in full is not"
    everywhere = parse_bits(spec, "3")
    assert {name for name, n in everywhere.items() if n != 3} == set(protected_layers(spec))


@pytest.mark.parametrize("text", ["", "3x3", "5", "3x3=5", "decoder9=4", "x=", "3x3=4,,"])
def test_rules_that_cannot_be_read(text):
    with pytest.raises(UserError, match="--bits"):
        parse_bits(SPECS["edge"], text)


def random_sensitivity(spec, seed):
    rng = np.random.default_rng(seed)
    return {
        layer.path: dict(
            zip(WEIGHT_BITS, sorted(rng.exponential(1e-3, 4), reverse=True), strict=True)
        )
        for layer in spec.layers()
        if layer.weights
    }


def test_the_allocation_is_the_best_of_all():
    """Against trying everything, on a network where six layers are free."""
    spec = NetSpec("small", (4, 8, 8, 8, 8), states=2, kernels=(3, 3, 3, 3), input_size=(32, 32))
    found = random_sensitivity(spec, 0)
    free = ["shallow.1", "pyramid.reduce", "pyramid.out", "decoder3.up", "decoder3.conv0"]
    # every other layer is indifferent at any width, so that the solver takes the fewest bytes
    for name in found:
        if name not in free:
            found[name] = dict.fromkeys(WEIGHT_BITS, 0.0)
    least = smallest_bits(spec)
    sizes = {layer.path: layer.weights for layer in spec.layers() if layer.weights}
    budget = weight_bytes(spec, least) + 700
    best = min(
        sum(found[n][b] for n, b in zip(free, widths, strict=True))
        for widths in itertools.product(WEIGHT_BITS, repeat=len(free))
        if weight_bytes(spec, least | dict(zip(free, widths, strict=True))) <= budget
    )
    chosen = allocate(spec, found, budget)
    assert chosen.weight_bytes == weight_bytes(spec, chosen.bits) <= budget
    assert sum(found[n][chosen.bits[n]] for n in sizes) == pytest.approx(best, rel=1e-6)


@pytest.mark.parametrize("quiet", WEIGHT_BITS[:-1])
def test_a_width_that_seems_better_than_a_wider_one_is_no_better(quiet):
    """Sensitivities are measured, with noise: fewer bits that seem to lose less gain nothing."""
    spec = NetSpec("small", (4, 8, 8, 8, 8), states=2, kernels=(3, 3, 3, 3), input_size=(32, 32))
    found = {
        layer.path: {bits: 0.0 if bits == quiet else 1e-3 for bits in WEIGHT_BITS}
        for layer in spec.layers()
        if layer.weights
    }
    room = weight_bytes(spec, dict.fromkeys(found, 8))
    assert set(allocate(spec, found, room).bits.values()) == {8}
    # and a layer whose noise says so is not narrowed before one that loses by each bit
    falling = dict(zip(WEIGHT_BITS, (4e-3, 2e-3, 1e-3, 0.0), strict=True))
    noisy = dict(zip(WEIGHT_BITS, (4e-3, 2e-3, 1e-3, 1e-3), strict=True))
    found["shallow.1"], found["decoder3.conv0"] = falling, noisy | {quiet: 0.0}
    one_byte_short = allocate(spec, found, room - 1).bits
    assert one_byte_short["shallow.1"] == 8


@pytest.mark.parametrize("seed", range(5))
def test_budgets_are_kept_and_protected_layers_stay(seed):
    spec = SPECS["base"]
    for budget in (2_900_000, 4_000_000, 5_500_000, 11_500_000):
        chosen = allocate(spec, random_sensitivity(spec, seed), budget)
        assert chosen.weight_bytes <= budget
        assert all(chosen.bits[name] == 8 for name in protected_layers(spec))
    assert set(chosen.bits.values()) == {8}, "with room for all, all have 8 bits"


def test_lkm_blocks_stay_int8_unless_the_budget_forbids_it():
    spec = SPECS["base"]
    found = random_sensitivity(spec, 0)
    lkm = [name for name in found if name.startswith(("lkm", "deep"))]
    wide = allocate(spec, found, 6_000_000)
    assert wide.lkm_int8 and all(wide.bits[name] == 8 for name in lkm)
    tight = allocate(spec, found, 4_000_000)
    assert not tight.lkm_int8 and any(tight.bits[name] < 8 for name in lkm)


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_lkm_parts_are_those_with_a_scan(spec):
    assert {layer.part for layer in spec.layers() if layer.kind == "scan"} == set(LKM_PARTS)
    assert is_lkm("lkm2.local") and is_lkm("deep.proj") and not is_lkm("deeper.proj")


def test_an_unreachable_budget_is_refused_with_the_smallest_size():
    spec = SPECS["base"]
    least = weight_bytes(spec, smallest_bits(spec))
    with pytest.raises(UserError, match=f"{least:,} bytes"):
        allocate(spec, random_sensitivity(spec, 0), least - 1)
    assert allocate(spec, random_sensitivity(spec, 0), least).weight_bytes == least


@pytest.mark.parametrize("scales", SCALES)
def test_sensitivity_is_that_of_each_layer_alone(tiny_model, tiny_data, scales):
    before = copy.deepcopy(tiny_model.state_dict())
    images = tiny_data.train.images[:4]
    found = sensitivity.measure(tiny_model, images, SILENT, scales)
    assert all(torch.equal(v, before[k]) for k, v in tiny_model.state_dict().items())
    assert set(found) == set(weights_of(tiny_model))
    assert all(value >= -1e-6 for row in found.values() for value in row.values())
    total = {bits: sum(row[bits] for row in found.values()) for bits in WEIGHT_BITS}
    assert total[2] > total[3] > total[4] > total[8]
    # by hand, for one layer: round what ships and compare the classes' distributions
    name = "decoder0.conv0"
    changed = fold(tiny_model)
    with torch.no_grad():
        batch = torch.from_numpy(images)
        own = tiny_model.eval()(batch).log_softmax(1)
        weight = weights_of(changed)[name]
        weight.copy_(sensitivity.round_weight(weight, 2, scales))
        other = changed(batch).log_softmax(1)
    by_hand = float((own.exp() * (own - other)).sum(1).mean())
    assert found[name][2] == pytest.approx(by_hand, rel=1e-4)


WIDE = NetSpec("w", (8, 24, 24, 32, 48), states=2, kernels=(3, 3, 3, 3), input_size=(32, 32))


@pytest.mark.parametrize(("overstated", "solved"), [(10, True), (16, True), (1000, False)])
def test_a_budget_that_the_solver_oversteps_by_a_few_bytes_is_kept_all_the_same(
    monkeypatch, overstated, solved
):
    """Bits that take a byte more than there is are not returned; 16 bytes less are asked for."""
    found, least = random_sensitivity(WIDE, 3), smallest_bits(WIDE)
    own = allocation.weight_bytes
    budget = own(WIDE, allocation._solve(WIDE, found, own(WIDE, least) + 900, least))
    assert own(WIDE, allocation._solve(WIDE, found, budget, least)) == budget
    monkeypatch.setattr(allocation, "weight_bytes", lambda *a: own(*a) + overstated)
    if not solved:
        with pytest.raises(RuntimeError, match=f"the integer program oversteps {budget} bytes"):
            allocation._solve(WIDE, found, budget, least)
        return
    taken = own(WIDE, allocation._solve(WIDE, found, budget, least))
    assert own(WIDE, least) < taken <= budget - 16


def test_nothing_is_printed_while_bits_are_chosen(capfd):
    allocate(WIDE, random_sensitivity(WIDE, 1), weight_bytes(WIDE, smallest_bits(WIDE)) + 900)
    assert capfd.readouterr() == ("", "")


def test_a_problem_without_a_solution_is_an_error():
    found, least = random_sensitivity(WIDE, 1), smallest_bits(WIDE)
    with pytest.raises(RuntimeError, match=r"the integer program was not solved: .*kInfeasible"):
        allocation._solve(WIDE, found, weight_bytes(WIDE, least) - 1, least)


def test_what_costs_nothing_or_less_takes_all_the_bits_that_there_is_room_for():
    layers = list(smallest_bits(WIDE))
    for cost in (0.0, -5.0):
        found = {name: dict.fromkeys(WEIGHT_BITS, cost) for name in layers}
        room = weight_bytes(WIDE, dict.fromkeys(layers, 8))
        assert set(allocate(WIDE, found, room).bits.values()) == {8}
        assert allocate(WIDE, found, room - 1).weight_bytes < room


def test_the_first_layer_the_head_and_mamba_have_8_bits_where_that_fits():
    least = smallest_bits(WIDE)
    first, head = protected_layers(WIDE)
    assert {name: bits for name, bits in least.items() if bits != 2} == {first: 8, head: 8}
    fixed = {name: 8 if is_lkm(name) else bits for name, bits in least.items()}
    size, found = weight_bytes(WIDE, fixed), random_sensitivity(WIDE, 2)
    chosen = allocate(WIDE, found, size)
    wide = [layer.path for layer in WIDE.layers() if layer.weights >= FEWEST_PACKED]
    assert {n: chosen.bits[n] for n in wide} == {n: fixed[n] for n in wide} and chosen.lkm_int8
    assert not allocate(WIDE, found, size - 1).lkm_int8
