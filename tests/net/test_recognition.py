import pytest
import torch

from lmaunet.errors import UserError

MAMBA = ("A_log", "D", "in_proj.weight", "conv1d.weight", "x_proj.weight", "dt_proj.weight")


def named(*names, **shapes):
    return {n: torch.zeros(shapes.get(n, (2, 2, 3, 3))) for n in names}


def mamba(prefix):
    return [prefix + name for name in MAMBA]


NNUNET = [
    "encoder.stages.0.0.convs.0.conv.weight", "decoder.encoder.stages.0.0.convs.0.conv.weight",
    "decoder.stages.0.convs.0.conv.weight", "decoder.seg_layers.0.weight",
]  # fmt: skip


def monai(name, *arguments, **options):
    import monai.networks.nets

    return lambda: getattr(monai.networks.nets, name)(*arguments, **options).state_dict()


NETWORKS = {
    "nnU-Net (PlainConvUNet": lambda: {
        "network_weights": named(*NNUNET), "trainer_name": "nnUNetTrainer",
        "init_args": {"configuration": "2d"}, "optimizer_state": {},
    },
    "the published LMa-UNet (LKM-UNet)": lambda: {
        "network_weights": named(
            *NNUNET, *mamba("encoder.mamba_layers.0.mamba_forw."),
            *mamba("encoder.w_mamba_layers.0.mamba_backw."),
        )
    },
    "U-Mamba": lambda: {
        "network_weights": named(*NNUNET, *mamba("mamba_layer.mamba."))
    },
    "SegMamba": lambda: named("vit.gscs.0.proj.conv.weight", *mamba("vit.stages.0.0.mamba.")),
    "LightM-UNet": lambda: named("convInit.conv.weight", *mamba("down_layers.0.1.mamba.")),
    "Swin-UMamba": lambda: named("vssm_encoder.layers.0.blocks.0.self_attention.A_logs"),
    "VM-UNet": lambda: named(
        "vmunet.layers.0.blocks.0.self_attention.A_logs", "vmunet.layers_up.0.blocks.0.ln_1.weight"
    ),
    "UltraLight-VM-UNet": lambda: named("encoder1.0.weight", *mamba("encoder4.0.mamba.")),
    "a ResNet": lambda: named("conv1.weight", "layer1.0.conv1.weight", "fc.weight"),
    "torchvision's DeepLab": lambda: named(
        "backbone.layer1.0.conv1.weight", "classifier.0.convs.0.0.weight"
    ),
    "segmentation_models_pytorch": lambda: named(
        "encoder.layer1.0.conv1.weight", "decoder.blocks.0.conv1.0.weight",
        "segmentation_head.0.weight",
    ),
    "YOLO of ultralytics": lambda: {"model": named("model.22.cv2.0.0.conv.weight")},
    "a vision transformer": lambda: named("cls_token", "blocks.0.attn.qkv.weight"),
    "FSDP flattened": lambda: named("_fsdp_wrapped_module._flat_param"),
    "weight or spectral": lambda: named("conv.parametrizations.weight.original0"),
    "MONAI's UNet": monai("UNet", 2, 1, 2, (4, 8, 16), (2, 2), num_res_units=2),
    "MONAI's DynUNet": monai("DynUNet", 2, 1, 2, [3] * 3, [1, 2, 2], [2, 2]),
    "MONAI's SegResNet": monai("SegResNet", 2, 8, 1, 2),
    "MONAI's SwinUNETR": monai("SwinUNETR", 1, 2, feature_size=12, spatial_dims=2),
    "MONAI's AttentionUnet": monai("AttentionUnet", 2, 1, 2, (4, 8, 16), (2, 2)),
    "MONAI's BasicUNet": monai("BasicUNet", 2, 1, 2, (4, 4, 4, 4, 4, 4)),
    "MONAI's VNet": monai("VNet", 2, 1, 2),
}  # fmt: skip


@pytest.mark.parametrize("kind", NETWORKS)
def test_other_networks_are_told_by_name(kind, loaded_from):
    with pytest.raises(UserError) as raised:
        loaded_from(NETWORKS[kind]())
    message = str(raised.value)
    assert f"looks like {kind}" in message or kind in message
    assert "by names such as" in message and "; " in message


@pytest.mark.parametrize("wrap", [lambda s: {"state_dict": s}, lambda s: {"ema": {"model": s}}])
def test_a_wrapped_network_is_told_too(wrap, loaded_from):
    state = {f"module.{k}": v for k, v in monai("SegResNet", 2, 8, 1, 2)().items()}
    with pytest.raises(UserError, match="looks like MONAI's SegResNet"):
        loaded_from(wrap(state))


def test_volumes_are_named(loaded_from):
    state = named(*NNUNET, **{NNUNET[0]: (8, 1, 3, 3, 3)})
    text = r"it is for 3-D volumes \(encoder\S* is \(8, 1, 3, 3, 3\)\)"
    with pytest.raises(UserError, match=text):
        loaded_from({"network_weights": state})


def test_an_unknown_network_shows_its_names(loaded_from):
    with pytest.raises(UserError, match=r"another network: its 2 tensors have names like a\.w, b"):
        loaded_from(named("a.w", "b"))


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ({"state": {0: {"exp_avg": 1}}, "param_groups": []}, "an optimizer's state"),
        ({"optimizer_state_dict": {"state": {}}, "epoch": 3}, "an optimizer's state"),
        ({"decay": 0.9, "shadow_params": [torch.ones(2)]}, "without their names"),
        ({"epoch": 3}, r"no state dict \(its keys: epoch\)"),
        ({}, "holds no state dict"),
        ([1, 2], "holds a list, expected a dictionary of tensors"),
        (torch.ones(3), r"holds one tensor \(3,\)"),
        (3, "holds a int"),
    ],
)
def test_what_holds_no_network(content, text, loaded_from):
    with pytest.raises(UserError, match=text):
        loaded_from(content)


def test_parts_of_the_network_are_named(state, loaded_from):
    encoder = {k: v for k, v in state.items() if k.startswith(("shallow", "stages"))}
    with pytest.raises(
        UserError, match=r"a part of an LMa-UNet: .* none of its pyramid, decoder, h"
    ):
        loaded_from({"encoder": encoder})
    assert loaded_from({"encoder": encoder, "model": state}).spec.classes == 4


def test_our_own_quantized_network_without_its_frame(other_net, loaded_from):
    from lmaunet.quant.network import QuantNetwork

    spec = other_net.spec
    shape = (1, spec.in_channels, *spec.input_size)
    state = QuantNetwork.from_module(other_net, shape).state_dict()
    with pytest.raises(UserError, match=r"quantized network of this program.*give the FP32"):
        loaded_from({"model": state})


def test_weights_of_this_network_in_another_form(state, loaded_from):
    head = state.pop("head.weight")
    content = {**state, "head.parametrizations.weight.original0": head}
    with pytest.raises(UserError, match=r"weight or spectral normalization.*remove_parametriz"):
        loaded_from(content)
    content = {**state, "head.weight": head, "head.lora_A.weight": head}
    with pytest.raises(UserError, match=r"adapters \(LoRA\)"):
        loaded_from({"state_dict": content})
