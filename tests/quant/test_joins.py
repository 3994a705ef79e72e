import numpy as np
import pytest
import torch
from torch import nn

from lmaunet.errors import UserError
from lmaunet.export.agreement import check_quantized
from lmaunet.export.network import QCDQ, export_qcdq
from lmaunet.graph.capture import capture
from lmaunet.graph.module import execute
from lmaunet.graph.scaled import scalable, scaled
from lmaunet.quant.calibration import calibrate
from lmaunet.quant.joins import GAIN_DB, SCALED, SEPARATE, SHARED, applied, choose_joins
from lmaunet.quant.network import QuantNetwork
from lmaunet.quant.settings import QatSettings
from lmaunet.train.schedule import Schedule


class Joined(nn.Module):
    """A narrow map and a wide one, joined; what follows weighs both alike."""

    def __init__(self, kind, ratio=100.0):
        super().__init__()
        torch.manual_seed(0)
        self.kind = kind
        self.wide, self.narrow = nn.Conv2d(2, 6, 3, padding=1), nn.Conv2d(2, 6, 3, padding=1)
        self.after = nn.Conv2d(12 if kind == "concat" else 6, 4, 1)
        self.other = nn.Conv2d(6, 4, 1)
        with torch.no_grad():
            self.narrow.weight.div_(ratio)
            self.narrow.bias.div_(ratio)
            self.other.weight.mul_(ratio)
            if kind == "concat":
                self.after.weight[:, 6:].mul_(ratio)

    def forward(self, image):
        wide, narrow = torch.relu(self.wide(image)), torch.relu(self.narrow(image))
        if self.kind == "concat":
            return self.after(torch.cat([wide, narrow], 1))
        return self.after(wide + narrow) + self.other(narrow)


@pytest.fixture(scope="module")
def images():
    return torch.randn(6, 2, 8, 8, generator=torch.Generator().manual_seed(1)).numpy()


def captured(kind, images, ratio=100.0):
    return capture(Joined(kind, ratio).eval(), images.shape)


def chosen(kind, images, **options):
    graph, weights = captured(kind, images, options.pop("ratio", 100.0))
    return graph, weights, choose_joins(graph, weights, images, lambda f, line: None, **options)


def test_a_producer_is_scaled_to_the_rest_of_its_concatenation(images):
    graph, weights, joins = chosen("concat", images)
    (join,) = joins
    assert join.choice == SCALED and join.factor in (1 / 64, 1 / 128)  # the wide one
    assert join.sqnr_db[SCALED] > join.sqnr_db[SHARED] + 15
    # another scale alone does not help: the concatenation is rounded to one
    assert join.sqnr_db[SEPARATE] < join.sqnr_db[SCALED] - 10
    arrays, separate = applied(graph, weights, [join.to_json()])
    assert separate == ()
    for name in ("wide.weight", "wide.bias"):
        np.testing.assert_array_equal(arrays[name], weights[name] * np.float32(join.factor))
    images = torch.from_numpy(images)
    # powers of two: not a bit of a product changes
    assert torch.equal(execute(graph, arrays, images), execute(graph, weights, images))
    quantized = QuantNetwork(graph, arrays)
    calibrate(quantized, images.numpy())
    with torch.no_grad():
        error = (quantized(images) - execute(graph, weights, images)).square().mean()
    assert error < 1e-3 * execute(graph, weights, images).square().mean()


def test_a_narrow_value_that_something_else_takes_has_a_scale_of_its_own(images):
    graph, weights, joins = chosen("add", images)
    by_name = {join.name: join for join in joins}
    first = by_name["add"]
    assert first.choice == SEPARATE and first.sqnr_db[SEPARATE] > first.sqnr_db[SHARED] + 10
    assert SCALED not in first.sqnr_db  # the sum would change
    arrays, separate = applied(graph, weights, [join.to_json() for join in joins])
    assert "add" in separate and all(arrays[name] is weights[name] for name in weights)
    network = QuantNetwork(graph, weights, separate=separate)
    groups = network.rounding.groups
    assert groups["relu"] != groups["relu#2"]


def test_values_that_are_about_as_wide_share_a_scale(images):
    for kind in ("concat", "add"):
        _, _, joins = chosen(kind, images, ratio=1.0)
        assert {join.choice for join in joins} == {SHARED}
        for join in joins:
            assert max(join.sqnr_db.values()) < join.sqnr_db[SHARED] + GAIN_DB


def test_only_the_forms_that_are_asked_for_are_tried(images):
    (join,) = chosen("concat", images, forms=(SEPARATE,))[2]
    assert set(join.sqnr_db) == {SHARED, SEPARATE}
    joins = chosen("add", images, forms=(SCALED,))[2]
    assert all(set(join.sqnr_db) == {SHARED} for join in joins)


class Sources(nn.Module):
    """What makes a value, and what takes it, in each way that can't be scaled."""

    def __init__(self, case):
        super().__init__()
        self.case = case
        self.first, self.second = nn.Conv2d(2, 4, 1), nn.Conv2d(2, 4, 1)
        self.after = nn.Conv2d(8, 4, 1, groups=2 if case == "grouped" else 1)
        self.more = nn.Conv2d(4, 4, 1)

    def forward(self, image):
        value = self.second(image)
        if self.case == "sigmoid":
            value = torch.sigmoid(value)
        joined = torch.cat([torch.sigmoid(self.first(image)), value], 1)
        after = torch.relu(joined[:, :4]) if self.case == "sliced" else self.after(joined)
        return after + self.more(value) if self.case == "twice" else after


@pytest.mark.parametrize("case", ["plain", "sigmoid", "grouped", "sliced", "twice"])
def test_what_can_be_scaled(case):
    graph, weights = capture(Sources(case).eval(), (1, 2, 8, 8))
    join = next(node for node in graph.nodes if node.name == "concat")
    found = scalable(graph, join, join.inputs[1])
    assert scalable(graph, join, join.inputs[0]) is None  # a sigmoid makes it
    if case != "plain":
        assert found is None
        return
    assert found is not None and found.made_by == ("second.weight", "second.bias")
    assert (found.taken_by, found.first, found.last) == (("after.weight",), 4, 8)
    changed = scaled(weights, found, 4.0)
    np.testing.assert_array_equal(changed["after.weight"][:, :4], weights["after.weight"][:, :4])
    np.testing.assert_array_equal(
        changed["after.weight"][:, 4:] * 4, weights["after.weight"][:, 4:]
    )


@pytest.mark.parametrize("kind", ["concat", "add"])
def test_separate_scales_are_exported_as_they_are_computed(kind, images, tmp_path):
    graph, weights = captured(kind, images)
    joins = [node.name for node in graph.nodes if node.operator.name in ("concat", "add")]
    network = QuantNetwork(graph, weights, separate=joins)
    calibrate(network, images)
    export_qcdq(network.eval(), torch.from_numpy(images[:1]), tmp_path / QCDQ)
    found = check_quantized(tmp_path / QCDQ, images[:1], network, tmp_path)
    assert len(found) == 6 and all(entry.passed for entry in found)


def test_bad_settings_are_named():
    with pytest.raises(UserError, match="joins 'best'; use one of: shared, scaled, auto"):
        QatSettings(Schedule(1, 1e-3), joins="best")
    graph, weights = capture(Joined("add").eval(), (1, 2, 8, 8))
    with pytest.raises(UserError, match="'after' joins no values"):
        QuantNetwork(graph, weights, separate=["after"])
