"""``lmaunet-deploy infer`` on the command line; the work is in :mod:`lmaunet.deploy.inferring`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Optional

import typer

from lmaunet.data.images.masks import LABEL_SUFFIXES, OUTPUT_SUFFIXES
from lmaunet.deploy import console, defaults
from lmaunet.deploy.command_options import command, offer
from lmaunet.deploy.confidence_map import MapOptions
from lmaunet.errors import UserError
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


@dataclass(frozen=True)
class ArchiveOptions:
    """Who segments the studies of a folder; what each means is said at :mod:`.archive`."""

    workers: int | None = None
    scheduler: str = ""
    suffix: str = LABEL_SUFFIXES[0]


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    command(app)(infer)


def infer(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="NIfTI, NRRD, MetaImage or DICOM file, or a DICOM folder; one for each channel of the network. Or a folder of studies.")],  # noqa: E501
    folder: Annotated[Path, typer.Option("--build", help="The folder of a build, such as runs/NAME/build/ort.")],  # noqa: E501
    output: Annotated[Path, typer.Option("--output", "-o", help="The segmentation: .nii.gz, .nii, .nrrd, .mha, or .dcm for DICOM SEG; of a folder of studies a folder.")],  # noqa: E501
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
    workers: Annotated[Optional[int], typer.Option(help="Of a folder of studies: processes at a time; one for each core and 2 GB of free memory if not given.")] = None,  # noqa: E501, UP045
    scheduler: Annotated[str, typer.Option(help="Of a folder of studies: a Dask scheduler, such as tcp://HOST:8786, whose workers do it in place of this machine.")] = "",  # noqa: E501
    suffix: Annotated[str, typer.Option("--format", help="Of the masks of a folder of studies; .nii.gz if not given.", autocompletion=offer(*OUTPUT_SUFFIXES))] = "",  # noqa: E501
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:  # fmt: skip
    """Segment an image, or each study in a folder, with a build; masks lie on the images' grids."""
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
    several = None
    if is_archive(images, output):
        several = ArchiveOptions(workers, scheduler, suffix or LABEL_SUFFIXES[0])
    elif workers is not None or scheduler or suffix:
        given = "--workers" if workers is not None else "--scheduler" if scheduler else "--format"
        raise UserError(
            f"{given} is for a folder of studies, and {output} names one mask: name a folder"
        )
    content, lines, status = commands.infer(folder, images, output, options, several)
    console.show(content, lines, as_json)
    raise typer.Exit(status)


def is_archive(images: Sequence[Path], output: Path) -> bool:
    """Tell whether a mask for each study of a folder is asked for: ``output`` names a folder."""
    if output.exists():
        return output.is_dir()
    named = output.name.lower().endswith(OUTPUT_SUFFIXES)
    return not named and not output.suffix and len(images) == 1
