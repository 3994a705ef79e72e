"""``lmaunet-deploy infer`` on the command line; the work is in :mod:`lmaunet.deploy.inferring`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Optional

import typer

from lmaunet.deploy import console, defaults
from lmaunet.deploy.command_options import command, offer
from lmaunet.deploy.confidence_map import MapOptions
from lmaunet.kernel_profiles import AUTO, read_kernel


@dataclass(frozen=True)
class InferOptions:
    """How an image is segmented; what each means is said at :func:`.inferring.infer`."""

    overlap: float = defaults.OVERLAP
    batch: int = defaults.INFER_BATCH
    tta: bool = False
    confidence: MapOptions | None = None
    kernel: int | None = None
    crf: bool = False
    fuse: str = ""
    missing: Sequence[int] = ()


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    command(app)(infer)


def infer(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="NIfTI, NRRD, MetaImage or DICOM file, or a DICOM folder; one for each channel of the network.")],  # noqa: E501
    folder: Annotated[Path, typer.Option("--build", help="The folder of a build, such as runs/NAME/build/ort.")],  # noqa: E501
    output: Annotated[Path, typer.Option("--output", "-o", help="The segmentation: .nii.gz, .nii, .nrrd, .mha, or .dcm for DICOM SEG.")],  # noqa: E501
    overlap: Annotated[float, typer.Option(help="Overlap of windows, as a share of their side, where slices are larger than the network's input.")] = defaults.OVERLAP,  # noqa: E501
    batch: Annotated[int, typer.Option(help="Slices at a time.")] = defaults.INFER_BATCH,
    tta: Annotated[bool, typer.Option("--tta", help="Average over mirrored images, for a network of nnU-Net's that was trained so; slower.")] = False,  # noqa: E501
    confidence: Annotated[Optional[Path], typer.Option(help="Also write this map of how sure the network is, for one that was trained with qat --dropout: .nii.gz, .nii, .nrrd or .mha.")] = None,  # noqa: E501, UP045
    samples: Annotated[Optional[int], typer.Option(help="How many masks of dropout for it; 8 if not given.")] = None,  # noqa: E501, UP045
    seed: Annotated[Optional[int], typer.Option(help="Of these masks; 0 if not given.")] = None,  # noqa: UP045
    kernel: Annotated[str, typer.Option("--kernel", help="Of an elastic network's build: auto, by the image's resolution, or one of its kernels, such as 5, 7 or 9.", autocompletion=offer("auto", "5", "7", "9"))] = AUTO,  # noqa: E501
    fuse: Annotated[str, typer.Option(help="Images on another grid than the first: resample them onto it, or register them onto it first; refused if not given.", autocompletion=offer("resample", "register"))] = "",  # noqa: E501
    missing: Annotated[Optional[list[int]], typer.Option(help="The number of an image that is missing, 1 for the first, for a network trained with --drop-modality; repeatable. Or give - in its place.")] = None,  # noqa: E501, UP045
    crf: Annotated[bool, typer.Option("--crf", help="Take the labels of least energy, by probability and contrast, for the most probable ones; what that gained on ten patients: docs/correction.md.")] = False,  # noqa: E501
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:  # fmt: skip
    """Segment an image with a build; the result lies on the image's own grid."""
    from lmaunet.deploy import commands

    options = InferOptions(
        overlap,
        batch,
        tta,
        MapOptions.of(confidence, samples, seed),
        read_kernel(kernel),
        crf,
        fuse,
        tuple(missing or ()),
    )
    console.show(*commands.infer(folder, images, output, options), as_json)
