"""Tell by the names of its tensors what network a checkpoint is of that is no LMa-UNet."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lmaunet.net.unwrapping import mappings, printable

HERE = "this program takes the LMa-UNet of lmaunet/net/network.py (see docs/checkpoints.md)"
TRAIN_HERE = f"{HERE}; train one on your data with: lmaunet-deploy train --spec edge --data DIR"


@dataclass(frozen=True)
class Family:
    """Networks that are told by their tensors' names.

    Args:
        name: as people call them.
        names: regular expressions, each of which some tensor's name must hold.
        remedy: what can be done.
    """

    name: str
    names: tuple[str, ...]
    remedy: str = TRAIN_HERE


ALTERED = (
    Family("a quantized network of this program", (r"tensor_quant|\.(?:input|weight)_quant\.",),
           "give the FP32 checkpoint that it came from (RUN/train/model.pt)"),
    Family("a network quantized by torch.ao",
           (r"_packed_params|activation_post_process|weight_fake_quant|\.zero_point$",),
           "give the FP32 checkpoint that it came from"),
    Family("a network with weight or spectral normalization",
           (r"parametrizations\.weight\.original|(?:weight_orig|weight_u|weight_g)$",),
           "make the weights plain with torch.nn.utils.parametrize.remove_parametrizations (or "
           "remove_weight_norm) and save its state_dict again"),
    Family("adapters (LoRA), not whole weights", (r"lora_[AB]",),
           "merge them into the network (merge_and_unload) and save its state_dict"),
    Family("weights that FSDP flattened or sharded", (r"_?flat_param(?:$|_)",),
           "save it with StateDictType.FULL_STATE_DICT"),
)  # fmt: skip
"""Forms that the weights of any network may be in, this program's too."""

FAMILIES = (
    *ALTERED,
    Family("the published LMa-UNet (LKM-UNet), trained by nnU-Net: another variant, with Mamba in "
           "both directions, windows and residual convolutions",
           (r"mamba_forw\.|mamba_backw\.|w_mamba_layers\.",)),
    Family("U-Mamba, trained by nnU-Net",
           (r"mamba_layers?\..*A_log", r"encoder\.(?:stages|stem)\.|seg_layers\.")),
    Family("SegMamba", (r"(?:^|\.)(?:vit\.stages|gscs|vit\.gscs)\.", r"A_(?:b_)?log")),
    Family("LightM-UNet", (r"A_log", r"down_layers\.|up_layers\.")),
    Family("Swin-UMamba", (r"vssm_encoder\.",)),
    Family("VM-UNet", (r"A_logs$|x_proj_weight", r"(?:^|\.)(?:layers|layers_up)\.\d+\.")),
    Family("a VMamba (SS2D) network", (r"A_logs$|x_proj_weight",)),
    Family("UltraLight-VM-UNet", (r"(?:^|\.)(?:encoder|decoder)\d\.\d+\.mamba\.A_log",)),
    Family("nnU-Net (PlainConvUNet or ResidualEncoderUNet)",
           (r"(?:^|\.)encoder\.(?:stages|stem)\.", r"(?:^|\.)decoder\.seg_layers\."),
           "import the folder that nnUNetv2_train wrote: lmaunet-deploy import "
           "nnUNet_results/DatasetXXX_NAME/TRAINER__PLANS__2d (docs/nnunet.md)"),
    Family("the generic U-Net of nnU-Net v1",
           (r"conv_blocks_context\.", r"conv_blocks_localization\.|seg_outputs\.")),
    Family("MONAI's SwinUNETR", (r"swinViT\.",)),
    Family("MONAI's UNETR or ViT-based network", (r"(?:^|\.)vit\.(?:patch_embedding|blocks)\.",)),
    Family("MONAI's SegResNet", (r"convInit\.conv\.", r"(?:down_layers|up_layers)\.")),
    Family("MONAI's DynUNet",
           (r"input_block\.conv1\.", r"(?:downsamples|upsamples)\.|skip_layers")),
    Family("MONAI's AttentionUnet", (r"attention\.(?:W_g|W_x|psi)\.",)),
    Family("MONAI's BasicUNet or BasicUNetPlusPlus",
           (r"conv_0(?:_0)?\.conv_0\.", r"(?:down_1|upcat_4|upcat_\d_\d)\.")),
    Family("MONAI's VNet", (r"in_tr\.conv_block", r"down_tr32\.")),
    Family("MONAI's UNet", (r"(?:^|\.)model\.\d+\.submodule\.",)),
    Family("a network of segmentation_models_pytorch or MONAI's FlexibleUNet",
           (r"segmentation_head\.0\.",)),
    Family("YOLO of ultralytics", (r"model\.\d+\.(?:cv\d|m\.\d+\.cv\d|dfl)\b",)),
    Family("torchvision's DeepLab, LR-ASPP or FCN",
           (r"backbone\.", r"classifier\.(?:0\.convs|low_classifier|\d+\.)")),
    Family("TransUNet", (r"transformer\.embeddings\.|hybrid_model\.",)),
    Family("Swin-Unet", (r"(?:layers|layers_up)\.\d+\..*relative_position",)),
    Family("Segment Anything (SAM) or MedSAM", (r"image_encoder\.", r"mask_decoder\.")),
    Family("a U-Net of Pytorch-UNet's kind",
           (r"(?:^|\.)(?:inc|down1)\.", r"(?:^|\.)outc\.")),
    Family("a detector of torchvision or Detectron2", (r"rpn\.|roi_heads\.|proposal_generator\.",)),
    Family("a vision transformer", (r"(?:cls_token|pos_embed|blocks\.\d+\.attn\.)",)),
    Family("a Mamba language model or backbone", (r"(?:backbone\.)?layers\.\d+\.mixer\.",)),
    Family("a ResNet or another classifier, which has no decoder",
           (r"(?:^|\.)(?:layer[1-4]\.\d+\.|features\.\d+)",)),
    Family("a Mamba network of another kind", (r"A_log",)),
    Family("a U-Net of another kind",
           (r"(?:^|\.)(?:enc|dec|encoders?|decoders?|downs?|ups?)_?\d*\.",)),
)  # fmt: skip
"""From the particular to the general: the first that fits is named."""


def recognise(content: Any) -> tuple[str, str]:
    """Return what a file looks like, with its evidence, and what can be done.

    Args:
        content: of a file in which no weights of an LMa-UNet were found.
    """
    found = [mapping for _, mapping in mappings(content)]
    tensors = max(found, key=len, default={})
    names = [k for k in tensors if isinstance(k, str)]
    if not names or not any(isinstance(v, Tensor) for v in tensors.values()):
        return _without_names(content)
    family, evidence = None, ""
    for candidate in FAMILIES:
        evidence = _evidence(candidate, names)
        if evidence:
            family = candidate
            break
    about = _about(tensors)
    if family is None:
        listed = ", ".join(map(printable, names[:3]))
        return (f"is of another network: its {len(names)} tensors have names like {listed}{about}",
                TRAIN_HERE)  # fmt: skip
    whose = ""
    if isinstance(content, Mapping) and "network_weights" in content and "nnU" not in family.name:
        whose = ", trained by nnU-Net"
    return f"looks like {family.name}{whose}, by names such as {evidence}{about}", family.remedy


def recognise_altered(names: list[str]) -> tuple[str, str] | None:
    """Return in what form the weights of an LMa-UNet are where it is not the plain one."""
    for family in ALTERED:
        evidence = _evidence(family, names)
        if evidence:
            return f"looks like {family.name}, by names such as {evidence}", family.remedy
    return None


def _evidence(family: Family, names: list[str]) -> str:
    """Return a name for each pattern of a family, or nothing where one has none."""
    shown = []
    for pattern in family.names:
        name = next((n for n in names if re.search(pattern, n)), None)
        if name is None:
            return ""
        shown.append(printable(name))
    return " and ".join(dict.fromkeys(shown))


def _about(tensors: Mapping[str, Any]) -> str:
    """Return a clause on a network for volumes, which no 2-D network takes."""
    solid = [k for k, v in tensors.items()
             if isinstance(v, Tensor) and v.dim() == 5 and str(k).endswith("weight")]  # fmt: skip
    if not solid:
        return ""
    shape = tuple(tensors[solid[0]].shape)
    return f"; it is for 3-D volumes ({printable(str(solid[0]))} is {shape}), this one is 2-D"


def _without_names(content: Any) -> tuple[str, str]:
    """Return what a file without named tensors is."""
    save = "save the network: torch.save(model.state_dict(), path)"
    if isinstance(content, Tensor):
        return f"holds one tensor {tuple(Tensor.size(content))}, no dictionary of them", save
    if not isinstance(content, Mapping):
        return f"holds a {type(content).__name__}, expected a dictionary of tensors", save
    keys = [printable(k) for k in content if isinstance(k, str)]
    if any("optim" in k for k in keys) or {"state", "param_groups"} <= set(keys):
        return f"holds an optimizer's state ({', '.join(keys[:4])}) and no network", save
    if any("shadow_params" in str(k) for k in content):
        return "holds an average of weights without their names (shadow_params)", (
            "copy them into the network (ema.copy_to) and save its state_dict"
        )
    listed = f" (its keys: {', '.join(keys[:6])})" if keys else ""
    return f"holds no state dict{listed}", save
