"""Small arrays that nnunetv2 computed, which the tests hold this project's preparation to.

    python benchmarks/nnunet_arrays.py -o tests/data/stored_nnunet.npz

It runs in an environment with nnunetv2 (``pip install nnunetv2``); nothing of this project is
needed. For each case the file has the image, what nnU-Net's preprocessor made of it, the logits
that its predictor computed of that by a network of one convolution and a slope, and the mask that
it exported.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

WEIGHTS = np.random.default_rng(7).normal(0, 0.4, (3, 3, 3, 3)).astype(np.float32)
SLOPES = np.array([0.02, -0.03, 0.011], np.float32)

# name: shape, spacing, transposition, target spacing, patch, schemes, masked, mirroring axes
CASES = {
    "mr": ((6, 19, 26), (5.0, 1.3, 0.8), (0, 1, 2), (1.0, 0.9), (32, 24),
           ("ZScoreNormalization",) * 2, (True, False), (0, 1)),
    "ct": ((22, 7, 18), (1.1, 1.6, 0.9), (1, 0, 2), (0.8, 0.7), (16, 20),
           ("CTNormalization",), (False,), None),
    "rows": ((4, 9, 21), (1.0, 3.9, 1.2), (0, 1, 2), (2.9, 0.9), (12, 18),
             ("NoNormalization", "RescaleTo01Normalization"), (False, False), (1,)),
    "columns": ((5, 23, 8), (1.0, 0.9, 3.4), (0, 1, 2), (1.1, 4.1), (20, 8),
                ("RGBTo01Normalization",), (False,), (0,)),
    "same": ((3, 14, 15), (3.0, 1.0, 1.0), (0, 1, 2), (1.0, 1.0), (14, 12),
             ("ZScoreNormalization",), (False,), None),
}  # fmt: skip
FINGERPRINT = {"mean": 61.5, "std": 38.25, "percentile_00_5": -20.0, "percentile_99_5": 170.0}


class Network(nn.Module):
    """A convolution, and a slope that depends on the place in the window."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 3, 3, padding=1, bias=False)
        self.conv.weight.data = torch.from_numpy(WEIGHTS[:, :channels])

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        place = torch.arange(image.shape[2])[:, None] + 2 * torch.arange(image.shape[3])
        return self.conv(image) + torch.from_numpy(SLOPES)[:, None, None] * place


def image_of(shape: tuple[int, ...], channels: int, seed: int) -> np.ndarray:
    """Whole numbers from 0 to 200 in a box with zeros around it, and a hole in it."""
    random = np.random.default_rng(seed)
    image = np.zeros((channels, *shape), np.float32)
    inside = tuple(slice(1, side - 1 if side > 4 else side) for side in shape)
    block = image[(slice(None), *inside)]
    place = sum(np.meshgrid(*[np.linspace(0, 3, side) for side in block.shape[1:]], indexing="ij"))
    block[:] = np.round(90 + 80 * np.sin(2 * place) + random.normal(0, 12, block.shape))
    image = np.clip(image, 0, 200)
    # what the first channel lacks the second may have; a hole that no face touches
    image[0, :, 2:4, 2:5] = 0
    hole = tuple(slice(side // 2, side // 2 + 1 + (side > 12)) for side in shape)
    image[(slice(None), *hole)] = 0
    return image


def computed(name: str, seed: int) -> dict[str, np.ndarray]:
    """What nnunetv2 makes of a case."""
    from nnunetv2.inference.export_prediction import (
        convert_predicted_logits_to_segmentation_with_correct_shape as export,
    )
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    shape, spacing, transpose, target, patch, schemes, masked, mirror = CASES[name]
    resampling = {"order_z": 0, "force_separate_z": None}
    fn = "resample_data_or_seg_to_shape"
    plans = {
        "dataset_name": "Dataset001_Stored", "plans_name": "nnUNetPlans",
        "transpose_forward": list(transpose),
        "transpose_backward": [transpose.index(axis) for axis in range(3)],
        "image_reader_writer": "SimpleITKIO", "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {
            str(channel): FINGERPRINT for channel in range(len(schemes))
        },
        "configurations": {"2d": {
            "patch_size": list(patch), "spacing": list(target),
            "normalization_schemes": list(schemes), "use_mask_for_norm": list(masked),
            "resampling_fn_data": fn, "resampling_fn_seg": fn, "resampling_fn_probabilities": fn,
            "resampling_fn_data_kwargs": {"is_seg": False, "order": 3, **resampling},
            "resampling_fn_seg_kwargs": {"is_seg": True, "order": 1, **resampling},
            "resampling_fn_probabilities_kwargs": {"is_seg": False, "order": 1, **resampling},
            "architecture": {},
        }},
    }  # fmt: skip
    dataset = {
        "labels": {"background": 0, "one": 1, "two": 2}, "file_ending": ".nii.gz",
        "channel_names": {str(i): "x" for i in range(len(schemes))},
    }  # fmt: skip
    manager = PlansManager(plans)
    configuration = manager.get_configuration("2d")
    image = image_of(shape, len(schemes), seed)
    ready, _, properties = DefaultPreprocessor(verbose=False).run_case_npy(
        image, None, {"spacing": list(spacing)}, manager, configuration, dataset
    )
    predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
    network = Network(len(schemes))
    predictor.manual_initialization(
        network, manager, configuration, [network.state_dict()], dataset, "nnUNetTrainer", mirror
    )
    logits = predictor.predict_logits_from_preprocessed_data(torch.from_numpy(ready))
    logits = logits.cpu().numpy()
    mask = export(logits, manager, configuration, predictor.label_manager, properties)
    return {"image": image.astype(np.uint8), "ready": ready, "logits": logits, "mask": mask}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("-o", "--output", type=Path, required=True)
    output = parser.parse_args().output
    import importlib.metadata

    arrays = {"weights": WEIGHTS, "slopes": SLOPES}
    for seed, name in enumerate(CASES):
        arrays |= {f"{name}.{part}": value for part, value in computed(name, seed).items()}
    said = {
        "nnunetv2": importlib.metadata.version("nnunetv2"), "fingerprint": FINGERPRINT,
        "cases": CASES,
    }  # fmt: skip
    content: dict[str, Any] = {"said": np.array(json.dumps(said)), **arrays}
    np.savez_compressed(output, **content)
    print(f"{output}: {output.stat().st_size} bytes, nnunetv2 {said['nnunetv2']}")


if __name__ == "__main__":
    main()
