import dataclasses

import pytest
import torch

from lmaunet.errors import UserError
from lmaunet.net.inferred_spec import infer_spec
from lmaunet.net.network import LMaUNet
from lmaunet.net.origin import described
from lmaunet.spec import SPECS, NetSpec
from lmaunet.stated_spec import StatedSpec, state_spec

VARIANTS = {
    "as it is": {},
    "classes and channels": {"classes": 3, "in_channels": 4},
    "widths": {"widths": (4, 12, 20, 24, 40), "decoder_widths": None, "pyramid_width": None},
    "decoder": {"decoder_widths": (6, 8, 12, 16), "pyramid_width": 20},
    "concat": {"skip": "concat"},
    "concat of equal widths": {"skip": "concat", "widths": (8, 8, 8, 8, 8),
                               "decoder_widths": (8, 8, 8, 8)},
    "two convolutions": {"decoder_convs": 2},
    "bins": {"pyramid": "bins", "input_size": (128, 128)},
    "kernels": {"kernels": (9, 7, 5, 3)},
    "states": {"states": 5},
    "expand": {"expand": 3},
    "no Mamba": {"mamba": "none"},
    "a 1x1 for the large kernel": {"kernels": (1, 1, 7, 1)},
    "dense convolutions": {"block": "convs", "mamba": "none", "kernels": (3, 3, 5, 3)},
    "separable convolutions": {"block": "separable", "mamba": "none", "kernels": (9, 7, 5, 3)},
}  # fmt: skip


def tensors(spec):
    with torch.device("meta"):
        return LMaUNet(spec).state_dict()


@pytest.mark.parametrize("kind", VARIANTS)
def test_shapes_tell_every_variant(kind, tiny_spec, tmp_path):
    spec = dataclasses.replace(tiny_spec, **VARIANTS[kind])
    told = infer_spec(tensors(spec), None, tmp_path).spec
    wanted = spec.to_json() | {"name": "custom", "input_size": [256, 256]}
    if spec.mamba == "none":
        wanted["states"] = 16
        assert infer_spec(tensors(spec), StatedSpec.of(spec), tmp_path).spec == spec
    assert told.to_json() == wanted


@pytest.mark.parametrize("name", [name for name, spec in SPECS.items() if spec.dims == 2])
def test_a_named_spec_is_known_by_its_shapes(name, tmp_path):
    inferred = infer_spec(tensors(SPECS[name].replace(classes=3)), None, tmp_path)
    assert inferred.spec == SPECS[name].replace(classes=3)


def test_tensors_of_a_network_of_volumes_are_told_to_need_their_spec(tmp_path):
    with pytest.raises(UserError, match=r"3-D volumes, .* give the checkpoint that train wrote"):
        infer_spec(tensors(SPECS["edge3d"]), None, tmp_path)


def test_a_network_without_lkms_is_not_called_one():
    assert described(SPECS["unet"]).startswith("U-Net unet, 9 classes")
    assert described(SPECS["unet-mamba"]).startswith("LMa-UNet unet-mamba, 9 classes")


def test_what_shapes_do_not_tell_is_stated_or_assumed(tiny_spec, tmp_path):
    spec = tiny_spec.replace(strides=(2, 2, 2, 1), pyramid="bins", pyramid_bins=(1, 2),
                             mamba="both", input_size=(64, 32))  # fmt: skip
    assert infer_spec(tensors(spec), StatedSpec.of(spec), tmp_path) == (
        type(infer_spec(tensors(tiny_spec), None, tmp_path))(spec, ())
    )
    with pytest.raises(UserError, match=r"a pyramid of 2 bins, the default has 4; give .*FILE"):
        infer_spec(tensors(spec), None, tmp_path)
    inferred = infer_spec(tensors(tiny_spec), None, tmp_path)
    assert inferred.assumed == ("strides (2, 2, 2, 2)", "input 256x256", "mamba causal")
    stated = state_spec(None, input_size=64)
    inferred = infer_spec(tensors(tiny_spec), stated, tmp_path)
    assert inferred.spec.input_size == (64, 64)
    assert inferred.assumed == ("strides (2, 2, 2, 2)", "mamba causal")


@pytest.mark.parametrize(
    ("stated", "text"),
    [
        (state_spec(None, classes=4), r"classes 4 by --classes 4, 9 by head\.weight"),
        (state_spec(None, channels=3), r"in_channels 3 by --channels 3, 1 by shallow\.0\.conv"),
        (state_spec("edge"), r"widths \[24, .*\] by --spec edge, \[4, 8, .*kernels"),
        (
            StatedSpec.of(NetSpec("n", (4, 8, 8, 8, 8), mamba="none", block="convs")),
            r"block convs by spec n, lkm by stages\.0",
        ),
        (
            StatedSpec.of(NetSpec("n", (4, 8, 8, 8, 8), mamba="none")),
            r"mamba='none' by spec n, there is one in the file",
        ),
    ],
)
def test_contradictions_name_both(stated, text, tiny_spec, tmp_path):
    with pytest.raises(UserError, match=text):
        infer_spec(tensors(tiny_spec), stated, tmp_path)


def test_a_named_spec_leaves_what_depends_on_the_data_to_the_tensors(tmp_path):
    spec = SPECS["edge"].replace(classes=4, in_channels=3)
    assert infer_spec(tensors(spec), state_spec("edge"), tmp_path).spec == spec
    with pytest.raises(UserError, match="classes 9 by --classes 9, 4 by"):
        infer_spec(tensors(spec), state_spec("edge", classes=9), tmp_path)


def reshaped(state, name, *shape):
    return {**state, name: torch.zeros(shape, device="meta")}


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda s: reshaped(s, "stages.0.mamba.dt_proj.weight", 8, 2), "dt_rank is ceil"),
        (lambda s: reshaped(s, "stages.1.mamba.conv1d.weight", 8, 1, 3), "and d_conv 4 here"),
        (lambda s: reshaped(s, "stages.2.mamba.A_log", 8, 5), "other states or another expand"),
        (lambda s: reshaped(s, "stages.0.mamba.A_log", 9, 2), "d_inner to be a multiple"),
        (lambda s: reshaped(s, "head.weight", 9, 4, 1, 1, 1), "it is for 3-D volumes"),
        (lambda s: reshaped(s, "head.weight", 0), "sharded, ZeRO-3"),
        (lambda s: reshaped(s, "stages.0.local.weight", 8, 1, 11, 11), "each is 3, 5, 7 or 9"),
        (lambda s: reshaped(s, "head.weight", 9000, 4, 1, 1), "classes=9000; give at most"),
        (lambda s: reshaped(s, "stages.4.local.weight", 8, 1, 3, 3), "5 stages, expected 4"),
        (lambda s: {k: v for k, v in s.items() if k != "stages.1.mamba.A_log"}, "lacks stages.1"),
    ],
)
def test_shapes_that_no_network_of_this_program_has(change, text, tiny_spec, tmp_path):
    with pytest.raises(UserError, match=text):
        infer_spec(change(tensors(tiny_spec)), None, tmp_path)


def test_the_name_of_a_stated_file_and_what_it_leaves_out(tiny_spec, tmp_path):
    file = tmp_path / "mine.json"
    file.write_text('{"widths": [4, 8, 8, 8, 8], "strides": [2, 2, 2, 1]}')
    inferred = infer_spec(tensors(tiny_spec), state_spec(str(file)), tmp_path)
    wanted = tiny_spec.to_json() | {
        "name": "mine", "strides": [2, 2, 2, 1], "input_size": [256, 256]
    }  # fmt: skip
    assert inferred.spec.to_json() == wanted
    assert inferred.assumed == ("input 256x256", "mamba causal")
