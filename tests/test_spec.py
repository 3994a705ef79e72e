import pytest
import torch

from lmaunet.deploy.describe import layers_of
from lmaunet.errors import UserError
from lmaunet.net.network import LMaUNet
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


@pytest.mark.parametrize(
    ("name", "params", "operations"),
    [("unet", 7.8e6, 145.2e9), ("unet-large-kernel", 12.4e6, 210.7e9),
     ("unet-mamba", 9.1e6, 168.5e9), ("base", 11.2e6, 182.3e9)],
)  # fmt: skip
def test_a_network_of_the_article_has_its_size(name, params, operations):
    layers = layers_of(named_spec(name).replace(input_size=(512, 512)))
    assert sum(layer.params for layer in layers) == pytest.approx(params, rel=0.01)
    assert 2 * sum(layer.macs for layer in layers) == pytest.approx(operations, rel=0.01)


@pytest.mark.parametrize(
    "changes",
    [{"kernels": (5, 5, 5, 5)}, {"block": "separable"}, {"pyramid": "local"}, {"skip": "add"}],
)
def test_another_network_in_its_widths_has_another_size(changes):
    """The article's size is met by the blocks and widths together, by neither alone."""
    with torch.device("meta"):
        network = LMaUNet(named_spec("unet").replace(**changes))
    params = sum(parameter.numel() for parameter in network.parameters())
    assert params != pytest.approx(7.8e6, rel=0.01)


def test_the_articles_networks_differ_in_their_blocks_and_widths_alone():
    base = named_spec("base")
    alike = ("in_channels", "classes", "strides", "skip", "decoder_convs", "pyramid",
             "pyramid_bins", "states", "input_size")  # fmt: skip
    for name in ("unet", "unet-large-kernel", "unet-mamba"):
        spec = named_spec(name)
        assert {key: getattr(spec, key) for key in alike} == {
            key: getattr(base, key) for key in alike
        }
        assert spec.decoder_widths == spec.widths[:4] and spec.pyramid_width == spec.widths[4]


def test_a_field_that_older_files_lack_is_left_out():
    assert not {"mamba", "block"} & named_spec("base").to_json().keys()
    assert named_spec("unet").to_json()["block"] == "convs"
    older = {k: v for k, v in named_spec("edge").to_json().items()}
    assert NetSpec.from_json(older) == named_spec("edge")


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
        ({"kernels": (1, 1, 1, 1), "block": "convs", "mamba": "none"}, "in an LKM also 1"),
        ({"block": "dense"}, "block='dense'; use 'lkm', 'convs' or 'separable'"),
        ({"block": "convs"}, "block='convs' with mamba='causal'; .* give mamba 'none'"),
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
