"""nnU-Net's ``plans.json``: a 2-D configuration's network and its recipe for images.

Two forms are read. The newer one names the network's class and arguments (``architecture``); the
older one has the numbers that nnU-Net makes them of (``UNet_class_name``, ``conv_kernel_sizes``).
Classes are taken from tables here: nothing that a plan names is imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmaunet.data.nnunet_recipe import FINGERPRINT, ChannelRecipe, NnunetRecipe, Resampling
from lmaunet.data.user_json import is_name, is_whole, read_user_json, shown
from lmaunet.errors import UserError

PLANS_FILE = "plans.json"
NETWORKS = ("PlainConvUNet", "ResidualEncoderUNet")
"""Classes of the package dynamic-network-architectures that are built here."""
OPERATORS: Mapping[str, tuple[str, ...]] = {
    "conv_op": ("Conv2d",),
    "norm_op": ("InstanceNorm2d", "BatchNorm2d"),
    "dropout_op": ("Dropout2d", "Dropout"),
    "nonlin": ("LeakyReLU", "ReLU", "GELU", "SiLU"),
}
"""The layers of torch.nn that a plan may name, by the argument of the network's class."""
_BLOCKS = {"PlainConvUNet": "n_conv_per_stage", "ResidualEncoderUNet": "n_blocks_per_stage"}
_ARGUMENTS = (
    "n_stages", "features_per_stage", "conv_op", "kernel_sizes", "strides",
    "n_conv_per_stage_decoder", "conv_bias", "norm_op", "norm_op_kwargs", "dropout_op",
    "dropout_op_kwargs", "nonlin", "nonlin_kwargs",
)  # fmt: skip
_OPTIONAL = ("nonlin_first", "stem_channels", "deep_supervision")
_RESAMPLE = "resample_data_or_seg_to_shape"
_LARGEST = 2**14
AGAIN = "plan again with nnUNetv2_plan_and_preprocess and train, or give another configuration"


@dataclass(frozen=True)
class NnunetPlan:
    """A 2-D configuration of a plan.

    Args:
        dataset, name, configuration: what nnU-Net calls the data set, the plan and this of its
            configurations.
        network: one of NETWORKS; empty where only other code can build it.
        arguments: of that class, without channels and classes; layers by their name in torch.nn.
        recipe: how images are prepared; its mirroring axes are the checkpoint's, none here.
    """

    dataset: str
    name: str
    configuration: str
    network: str
    arguments: Mapping[str, Any]
    recipe: NnunetRecipe


def read_plan(path: Path, configuration: str, channels: int, *, network: bool = True) -> NnunetPlan:
    """Read a configuration of a ``plans.json``, for images of a number of channels.

    Without ``network`` only how images are prepared: the network is what other code builds.

    Raises:
        UserError: where the file is no plan, has no such configuration, or one that can't be
            deployed; each with what to do.
    """
    content = read_user_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("configurations"), dict):
        raise UserError(
            f"{path} is no plan of nnU-Net v2: it has no configurations; give the folder that "
            "nnUNetv2_train wrote"
        )
    where = f"{path}, configuration {configuration}"
    wanted = _configuration(content["configurations"], configuration, path)
    patch = wanted.get("patch_size")
    if isinstance(patch, list) and len(patch) == 3:
        two = [
            name for name, other in content["configurations"].items()
            if isinstance(other, dict) and len(other.get("patch_size") or ()) == 2
        ]  # fmt: skip
        raise UserError(
            f"{where} is 3-D, with a patch of {'x'.join(map(str, patch))}; 2-D networks are "
            "deployed here; train one with: nnUNetv2_train DATASET "
            f"{two[0] if two else '2d'} FOLD"
        )
    if wanted.get("previous_stage"):
        raise UserError(
            f"{where} is a cascade on {shown(wanted['previous_stage'])}; one network is deployed "
            "here; give a configuration that stands alone, such as 2d"
        )
    built_by, arguments = _architecture(wanted, where) if network else ("", {})
    try:
        recipe = _recipe(content, wanted, channels)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    return NnunetPlan(
        _text(content, "dataset_name", path),
        _text(content, "plans_name", path),
        configuration,
        built_by,
        arguments,
        recipe,
    )


def _text(content: Mapping[str, Any], key: str, path: Path) -> str:
    value: Any = content.get(key)
    if not is_name(value) or not value.isprintable() or len(value) > 100:
        raise UserError(f"{path}: {key} {shown(value)}; expected a name; {AGAIN}")
    return str(value)


def _configuration(found: Mapping[str, Any], name: str, path: Path) -> dict[str, Any]:
    """Return a configuration with what it inherits."""
    merged: dict[str, Any] = {}
    seen: list[str] = []
    while True:
        wanted = found.get(name)
        if not isinstance(wanted, dict) or name in seen:
            known = ", ".join(sorted(map(str, found)))
            raise UserError(
                f"{path} has no configuration {shown(name)}"
                + (f", from which {seen[-1]} inherits" if seen else "")
                + f"; it has {known}; give the folder that was trained by this plan"
            )
        merged = {**wanted, **merged}
        seen.append(name)
        parent = wanted.get("inherits_from")
        if parent is None:
            return merged
        name = parent


def _architecture(wanted: Mapping[str, Any], where: str) -> tuple[str, dict[str, Any]]:
    """Return the network's class and its arguments, checked."""
    if "architecture" in wanted:
        said = wanted["architecture"]
        arguments = said.get("arch_kwargs") if isinstance(said, dict) else None
        full: Any = said.get("network_class_name") if isinstance(said, dict) else None
        if not isinstance(arguments, dict) or not is_name(full):
            raise UserError(
                f"{where}: architecture {shown(said)}; expected network_class_name and "
                f"arch_kwargs; {AGAIN}"
            )
        network = full.rpartition(".")[2]
        if not full.startswith("dynamic_network_architectures."):
            network = full
    else:
        network, arguments = _older(wanted, where)
    if network not in NETWORKS:
        raise UserError(
            f"{where} is of network {shown(network)}; expected {' or '.join(NETWORKS)} of "
            "dynamic_network_architectures; give --code DIR, the folder that holds the nnunetv2 "
            "which trained it: its code is then run once (docs/nnunet.md)"
        )
    return network, _checked(network, arguments, where)


def _older(wanted: Mapping[str, Any], where: str) -> tuple[str, dict[str, Any]]:
    """Return class and arguments of a plan of the older form, in the terms of the newer one."""
    try:
        network = wanted["UNet_class_name"]
        stages = len(wanted["n_conv_per_stage_encoder"])
        base, most = wanted["UNet_base_num_features"], wanted["unet_max_num_features"]
        return network, {
            "n_stages": stages,
            "features_per_stage": [min(base * 2**stage, most) for stage in range(stages)],
            "conv_op": "torch.nn.Conv2d",
            "kernel_sizes": wanted["conv_kernel_sizes"],
            "strides": wanted["pool_op_kernel_sizes"],
            _BLOCKS.get(network, "n_conv_per_stage"): wanted["n_conv_per_stage_encoder"],
            "n_conv_per_stage_decoder": wanted["n_conv_per_stage_decoder"],
            "conv_bias": True,
            "norm_op": "torch.nn.InstanceNorm2d",
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        }
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{where} describes no network ({error!r}); expected architecture, or "
            f"UNet_class_name and its numbers; {AGAIN}"
        ) from error


def _checked(network: str, given: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return a network's arguments; raises UserError for one that its class does not take."""
    blocks = _BLOCKS[network]
    known = (*_ARGUMENTS, blocks, *_OPTIONAL)
    unknown = sorted(set(given) - set(known))
    lacking = [name for name in (*_ARGUMENTS[:6], blocks) if name not in given]
    if unknown or lacking:
        raise UserError(
            f"{where}: {network} with arguments {', '.join(map(shown, unknown)) or 'as known'}"
            f"{', without ' + ', '.join(lacking) if lacking else ''}; expected "
            f"{', '.join(known)}; {AGAIN}"
        )
    stages = given["n_stages"]
    if not is_whole(stages) or not 2 <= stages <= 16:
        raise UserError(f"{where}: n_stages {shown(stages)}; expected 2 to 16; {AGAIN}")
    for name in ("features_per_stage", "kernel_sizes", "strides", blocks,
                 "n_conv_per_stage_decoder"):  # fmt: skip
        decoder = name == "n_conv_per_stage_decoder"
        _check_numbers(name, given[name], stages - decoder, where)
    found = {name: value for name, value in given.items() if name != "deep_supervision"}
    for name, allowed in OPERATORS.items():
        value = found.get(name)
        if value is None and name != "conv_op":
            continue
        last = str(value).rpartition(".")[2]
        if not str(value).startswith("torch.nn.") or last not in allowed:
            raise UserError(
                f"{where}: {name} {shown(value)}; expected {' or '.join(allowed)} of torch.nn; "
                "give --code DIR, the nnunetv2 which trained it, or the network by --module"
            )
        found[name] = last
    for name in ("norm_op_kwargs", "dropout_op_kwargs", "nonlin_kwargs"):
        if not isinstance(found.get(name), (dict, type(None))):
            raise UserError(f"{where}: {name} {shown(found[name])}; expected an object; {AGAIN}")
    return found


def _check_numbers(name: str, value: Any, stages: int, where: str) -> None:
    """Raise UserError unless a value is a size, or one, or one for each axis, for each stage."""

    def size(one: Any) -> bool:
        return is_whole(one) and 1 <= one <= _LARGEST

    def sizes(one: Any) -> bool:
        return size(one) or (isinstance(one, list) and len(one) == 2 and all(map(size, one)))

    right = size(value) or (
        isinstance(value, list) and len(value) == stages and all(map(sizes, value))
    )
    if not right:
        raise UserError(
            f"{where}: {name} {shown(value)}; expected a whole number for each of {stages} stages; "
            f"{AGAIN}"
        )


def _recipe(content: Mapping[str, Any], wanted: Mapping[str, Any], channels: int) -> NnunetRecipe:
    """Return how the plan prepares images, but for the mirroring axes."""
    schemes, masks = wanted.get("normalization_schemes"), wanted.get("use_mask_for_norm")
    for name, value in (("normalization_schemes", schemes), ("use_mask_for_norm", masks)):
        if not isinstance(value, list) or len(value) != channels:
            raise UserError(
                f"{name} {shown(value)}, dataset.json names {channels} channel(s); expected one "
                "for each; give the plans.json and dataset.json of one training"
            )
    assert isinstance(schemes, list) and isinstance(masks, list)
    known = content.get(
        "foreground_intensity_properties_per_channel",
        content.get("foreground_intensity_properties_by_modality", {}),
    )
    fingerprints = known if isinstance(known, dict) else {}
    patch, spacing = wanted.get("patch_size"), wanted.get("spacing")
    order = content.get("transpose_forward", [0, 1, 2])
    for name, value in (("patch_size", patch), ("spacing", spacing), ("transpose_forward", order)):
        if not isinstance(value, list):
            raise UserError(f"{name} {shown(value)}; expected a list of numbers; {AGAIN}")
    assert isinstance(patch, list) and isinstance(spacing, list)
    return NnunetRecipe(
        tuple(patch),  # type: ignore[arg-type]
        tuple(spacing),  # type: ignore[arg-type]
        tuple(order),
        tuple(
            ChannelRecipe(scheme, masked, _fingerprint(fingerprints.get(str(index))))
            for index, (scheme, masked) in enumerate(zip(schemes, masks, strict=True))
        ),
        images=_resampling(wanted, "data", 3),
        logits=_resampling(wanted, "probabilities", 1),
        reader=str(content.get("image_reader_writer", "SimpleITKIO")),
    )


def _fingerprint(known: Any) -> dict[str, float]:
    if not isinstance(known, dict):
        return {}
    return {name: known[name] for name in FINGERPRINT if name in known}


def _resampling(wanted: Mapping[str, Any], of: str, order: int) -> Resampling:
    """Return how the plan resamples its images (``data``) or its logits (``probabilities``)."""
    function = wanted.get(f"resampling_fn_{of}", _RESAMPLE)
    said = wanted.get(f"resampling_fn_{of}_kwargs", {})
    if function != _RESAMPLE or not isinstance(said, dict) or said.get("is_seg", False):
        raise UserError(
            f"resampling_fn_{of} {shown(function)} with {shown(said)}; expected {_RESAMPLE}, "
            f"nnU-Net's own; {AGAIN}"
        )
    return Resampling(
        said.get("order", order), said.get("order_z", 0), said.get("force_separate_z")
    )
