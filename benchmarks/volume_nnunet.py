"""nnU-Net's side of ``volume.py``; runs in an environment with nnunetv2 and needs nothing else.

    python benchmarks/volume_nnunet.py make RESULTS SIDE SPACING_MM CLASSES
    python benchmarks/volume_nnunet.py steps RESULTS IMAGES OUTPUT 0|1

The first writes a results folder with random weights of the plain 2-D network that nnU-Net plans
for slices of that size, the second times its steps on the folder's image, mirrored or not.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

TRAINER = "nnUNetTrainer__nnUNetPlans__2d"
LARGEST_FEATURES, LEAST_SIDE = 512, 4


def plans(side: int, spacing_mm: float) -> dict:
    """nnU-Net's plans: features double from 32 to 512, the side halves down to 4."""
    stages = 1
    while side >> stages >= LEAST_SIDE and stages < 8:
        stages += 1
    resampling: dict[str, Any] = {
        f"resampling_fn_{of}": "resample_data_or_seg_to_shape"
        for of in ("data", "seg", "probabilities")
    }
    for of, order, is_seg in (("data", 3, False), ("seg", 1, True), ("probabilities", 1, False)):
        resampling[f"resampling_fn_{of}_kwargs"] = {
            "is_seg": is_seg,
            "order": order,
            "order_z": 0,
            "force_separate_z": None,
        }
    network = {
        "n_stages": stages,
        "features_per_stage": [min(32 << i, LARGEST_FEATURES) for i in range(stages)],
        "conv_op": "torch.nn.modules.conv.Conv2d",
        "kernel_sizes": [[3, 3]] * stages,
        "strides": [[1, 1]] + [[2, 2]] * (stages - 1),
        "n_conv_per_stage": [2] * stages,
        "n_conv_per_stage_decoder": [2] * (stages - 1),
        "conv_bias": True,
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm2d",
        "norm_op_kwargs": {"eps": 1e-05, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    configuration = {
        "data_identifier": "nnUNetPlans_2d",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": [side, side],
        "median_image_size_in_voxels": [side, side],
        "spacing": [spacing_mm, spacing_mm],
        "normalization_schemes": ["CTNormalization"],
        "use_mask_for_norm": [False],
        **resampling,
        "architecture": {
            "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
            "arch_kwargs": network,
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        },
        "batch_dice": True,
    }
    values = {
        "max": 1000.0,
        "mean": 50.0,
        "median": 50.0,
        "min": -1000.0,
        "percentile_00_5": -125.0,
        "percentile_99_5": 275.0,
        "std": 80.0,
    }
    return {
        "dataset_name": "Dataset001_Volume",
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": [3.0, spacing_mm, spacing_mm],
        "original_median_shape_after_transp": [64, side, side],
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {"2d": configuration},
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {"0": values},
    }


def make(results: Path, side: int, spacing_mm: float, classes: int) -> None:
    import torch
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    folder = results / "Dataset001_Volume" / TRAINER
    (folder / "fold_0").mkdir(parents=True, exist_ok=True)
    plan = plans(side, spacing_mm)
    dataset = {
        "channel_names": {"0": "CT"},
        "numTraining": 1,
        "file_ending": ".nii.gz",
        "labels": {"background": 0, **{f"class {i}": i for i in range(1, classes)}},
    }
    (folder / "plans.json").write_text(json.dumps(plan))
    (folder / "dataset.json").write_text(json.dumps(dataset))
    built = plan["configurations"]["2d"]["architecture"]
    torch.manual_seed(0)
    network = get_network_from_plans(
        built["network_class_name"],
        built["arch_kwargs"],
        built["_kw_requires_import"],
        1,
        classes,
        deep_supervision=False,
    )
    content = {
        "network_weights": network.state_dict(),
        "trainer_name": "nnUNetTrainer",
        "init_args": {"plans": plan, "configuration": "2d", "fold": 0, "dataset_json": dataset},
        "inference_allowed_mirroring_axes": (0, 1),
    }
    torch.save(content, folder / "fold_0" / "checkpoint_final.pth")


def steps(results: Path, images: Path, output: Path, tta: bool) -> None:
    import os

    import torch
    from nnunetv2.inference.export_prediction import export_prediction_from_logits
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    spent, started = {}, time.perf_counter()

    def lap(name: str) -> None:
        nonlocal started
        now = time.perf_counter()
        spent[name], started = round(now - started, 3), now

    predictor = nnUNetPredictor(
        device=torch.device("cpu"),
        use_mirroring=tta,
        perform_everything_on_device=False,
        allow_tqdm=False,
    )
    predictor.initialize_from_trained_model_folder(
        str(results / "Dataset001_Volume" / TRAINER), (0,), "checkpoint_final.pth"
    )
    lap("open")
    manager, settings = predictor.plans_manager, predictor.configuration_manager
    (path,) = sorted(map(str, images.glob("*.nii.gz")))
    image, properties = manager.image_reader_writer_class().read_images([path])
    lap("read")
    data, _, properties = settings.preprocessor_class(verbose=False).run_case_npy(
        image, None, properties, manager, settings, predictor.dataset_json
    )
    lap("preprocess")
    logits = predictor.predict_logits_from_preprocessed_data(torch.from_numpy(data)).cpu()
    lap("network")
    export_prediction_from_logits(
        logits,
        properties,
        settings,
        manager,
        predictor.dataset_json,
        str(output).removesuffix(".nii.gz"),
    )
    lap("write")
    print(
        json.dumps(
            {
                "phases_s": spent,
                "parameters": sum(p.numel() for p in predictor.network.parameters()),
            }
        )
    )


if __name__ == "__main__":
    what, results, *rest = sys.argv[1:]
    if what == "make":
        make(Path(results), int(rest[0]), float(rest[1]), int(rest[2]))
    else:
        steps(Path(results), Path(rest[0]), Path(rest[1]), rest[2] == "1")
