"""Folders as nnUNetv2_train leaves them, with a small network of random weights."""

from __future__ import annotations

import json

import numpy as np

STAGES = 3
FINGERPRINT = {
    "max": 300.0, "mean": 50.5, "median": 48.0, "min": -90.0, "percentile_00_5": -60.0,
    "percentile_99_5": 210.0, "std": 41.25,
}  # fmt: skip


def arguments(blocks="n_conv_per_stage"):
    """Those of a network of three stages whose numbers all differ."""
    return {
        "n_stages": STAGES, "features_per_stage": [4, 6, 8],
        "conv_op": "torch.nn.modules.conv.Conv2d", "kernel_sizes": [[3, 3], [1, 3], [3, 3]],
        "strides": [[1, 1], [2, 2], [1, 2]], blocks: [2, 1, 1],
        "n_conv_per_stage_decoder": [1, 2], "conv_bias": True,
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm2d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True}, "dropout_op": None,
        "dropout_op_kwargs": None, "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }  # fmt: skip


OPERATORS = ["conv_op", "norm_op", "dropout_op", "nonlin"]


def plans(network="PlainConvUNet", older=False):
    """The content of plans.json, in its newer or older form."""
    blocks = "n_blocks_per_stage" if network == "ResidualEncoderUNet" else "n_conv_per_stage"
    fn = "resample_data_or_seg_to_shape"
    kwargs = {"is_seg": False, "order_z": 0, "force_separate_z": None}
    flat = {
        "data_identifier": "nnUNetPlans_2d", "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 12, "patch_size": [16, 24], "median_image_size_in_voxels": [15.0, 22.0],
        "spacing": [1.25, 0.75],
        "normalization_schemes": ["CTNormalization", "ZScoreNormalization"],
        "use_mask_for_norm": [False, True], "resampling_fn_data": fn, "resampling_fn_seg": fn,
        "resampling_fn_data_kwargs": {**kwargs, "order": 3},
        "resampling_fn_seg_kwargs": {**kwargs, "order": 1, "is_seg": True},
        "resampling_fn_probabilities": fn,
        "resampling_fn_probabilities_kwargs": {**kwargs, "order": 1}, "batch_dice": True,
    }  # fmt: skip
    if older:
        known = arguments(blocks)
        flat |= {
            "UNet_class_name": network, "UNet_base_num_features": 4, "unet_max_num_features": 7,
            "n_conv_per_stage_encoder": known[blocks], "num_pool_per_axis": [1, 2],
            "n_conv_per_stage_decoder": known["n_conv_per_stage_decoder"],
            "pool_op_kernel_sizes": known["strides"], "conv_kernel_sizes": known["kernel_sizes"],
        }  # fmt: skip
    else:
        flat["architecture"] = {
            "network_class_name": f"dynamic_network_architectures.architectures.unet.{network}",
            "arch_kwargs": arguments(blocks), "_kw_requires_import": OPERATORS,
        }  # fmt: skip
    return {
        "dataset_name": "Dataset007_Tiny", "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": [4.0, 1.25, 0.75],
        "image_reader_writer": "SimpleITKIO", "transpose_forward": [1, 0, 2],
        "transpose_backward": [1, 0, 2], "label_manager": "LabelManager",
        "experiment_planner_used": "ExperimentPlanner",
        "configurations": {
            "2d": flat,
            "2d_small": {"inherits_from": "2d", "batch_size": 3},
            "3d_fullres": {"patch_size": [8, 16, 24], "spacing": [4.0, 1.25, 0.75]},
            "2d_cascade": {"inherits_from": "2d", "previous_stage": "2d_small"},
        },
        "foreground_intensity_properties_per_channel": {"0": FINGERPRINT, "1": FINGERPRINT},
    }  # fmt: skip


DATASET = {
    "channel_names": {"0": "CT", "1": "PET"},
    "labels": {"background": 0, "liver": 1, "left kidney": 2},
    "numTraining": 4, "file_ending": ".nii.gz",
}  # fmt: skip


def trained(module, configuration="2d", trainer="nnUNetTrainer", fold=0, mirror=(0, 1), plans=None):
    """The content of a checkpoint, with numpy's scalars where nnU-Net has them."""
    return {
        "network_weights": module.state_dict(),
        "optimizer_state": {"state": {}, "param_groups": [{"lr": 0.01}]},
        "grad_scaler_state": None,
        "logging": {"mean_fg_dice": [np.float64(0.5)], "train_losses": [np.float32(-0.25)]},
        "_best_ema": np.float64(0.625), "current_epoch": 2,
        "init_args": {"plans": plans or {}, "configuration": configuration, "fold": fold},
        "trainer_name": trainer, "inference_allowed_mirroring_axes": mirror,
    }  # fmt: skip


def network(content, classes=3, channels=2, seed=0):
    """The stock network of plans.json's 2d configuration, as nnU-Net would build it."""
    import torch
    from dynamic_network_architectures.architectures import unet
    from torch import nn

    said = content["configurations"]["2d"]["architecture"]
    given = dict(said["arch_kwargs"])
    for name in OPERATORS:
        given[name] = given[name] and getattr(nn, given[name].rpartition(".")[2])
    torch.manual_seed(seed)
    made = getattr(unet, said["network_class_name"].rpartition(".")[2])(
        input_channels=channels, num_classes=classes, deep_supervision=True, **given
    )
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made


def write(folder, content, checkpoint, dataset=DATASET, fold=0, name="checkpoint_final.pth"):
    """Write a folder; ``checkpoint`` is what torch.save gets."""
    import torch

    place = folder / f"fold_{fold}"
    place.mkdir(parents=True, exist_ok=True)
    (folder / "plans.json").write_text(json.dumps(content))
    (folder / "dataset.json").write_text(json.dumps(dataset))
    torch.save(checkpoint, place / name)
    return folder
