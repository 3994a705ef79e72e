import pytest

from lmaunet.deploy.describe import layers_of
from lmaunet.errors import UserError
from lmaunet.spec import SPECS, Format, NetSpec, ScanSpec, named_spec


def test_layer_by_hand():
    spec = NetSpec("x", (4, 8, 8, 8, 16), states=2, expand=2, input_size=(32, 32), classes=3)
    layers = {layer.name: layer for layer in layers_of(spec)}
    first = layers["shallow.0.conv"]
    assert first.params == 1 * 4 * 9 and layers["shallow.0.norm"].params == 2 * 4
    assert first.macs == 32 * 32 * 4 * 9
    in_proj = layers["stages.0.mamba.in_proj"]
    assert (in_proj.params, in_proj.macs) == (8 * 32, 16 * 16 * 8 * 32)
    scan = layers["stages.0.mamba.scan"]
    assert scan.params == 16 * 2 + 16
    assert scan.macs == 3 * 16 * 16 * 16 * 2
    local, norm = layers["stages.0.local"], layers["stages.0.norm"]
    assert (local.params, norm.params, local.macs) == (8 * 49, 16, 16 * 16 * 8 * 49)


def test_base_has_the_articles_size():
    params = sum(layer.params for layer in layers_of(named_spec("base")))
    assert abs(params / 11.2e6 - 1) < 0.01


def test_edge_is_the_budgeted_network():
    """The FPGA study counted 1.10 M weights and 2.51 G MACs, with 16 states."""
    spec = named_spec("edge").replace(states=16, in_channels=3, classes=2)
    layers = layers_of(spec.replace(input_size=(256, 256)))
    assert sum(layer.params for layer in layers) == pytest.approx(1.10e6, rel=0.005)
    assert sum(layer.macs for layer in layers) == pytest.approx(2.51e9, rel=0.005)


@pytest.mark.parametrize("name", SPECS)
def test_json_round_trip(name):
    assert NetSpec.from_json(named_spec(name).to_json()) == named_spec(name)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"kernels": (4, 7, 7, 7)}, r"kernels=\(4, 7, 7, 7\); each is 3, 5, 7 or 9"),
        ({"widths": (1, 2, 3)}, r"widths=\(1, 2, 3\); give 5 positive numbers"),
        ({"input_size": (100, 128)}, "input 100x128; height and width must be multiples of 16"),
        ({"classes": 1}, "classes=1; give 2 or more"),
        ({"skip": "sum"}, "skip is 'add' or 'concat'"),
        ({"states": 0}, "states=0; give 1 or more"),
    ],
)
def test_bad_choice_is_named(changes, text):
    with pytest.raises(UserError, match=text):
        named_spec("demo").replace(**changes)


def test_unknown_names():
    with pytest.raises(UserError, match="unknown spec 'huge'; use one of: base, edge, demo"):
        named_spec("huge")
    with pytest.raises(UserError, match="not a network specification"):
        NetSpec.from_json({"name": "x", "depth": 3})


def test_formats():
    assert (Format(8, 7).low, Format(8, 7).high) == (-128, 127)
    assert (Format(16, 16, signed=False).low, Format(16, 16, signed=False).high) == (0, 65535)
    spec = ScanSpec(4, 2, {"state": Format(18, 15)})
    assert ScanSpec.from_json(spec.to_json()) == spec
    with pytest.raises(UserError, match="a format of 0 bits; give 1 to 62"):
        Format(0, 0)
