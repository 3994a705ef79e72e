"""``lmaunet-deploy refine`` on the command line; the work is in :mod:`lmaunet.deploy.refining`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from lmaunet.deploy import console
from lmaunet.deploy.command_options import command

BACKGROUND = 255
MARGIN_MM = 15.0
"""As :mod:`lmaunet.deploy.correction` has it, which loads what the command line does not need."""


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    command(app, "refine")(refine)


def refine(
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="NIfTI, NRRD, MetaImage or DICOM file, or a DICOM folder.")],  # noqa: E501
    mask: Annotated[Path, typer.Argument(metavar="MASK", help="Its labels, such as infer wrote them; stays as it is.")],  # noqa: E501
    scribbles: Annotated[Path, typer.Option("--scribbles", help="Strokes on the image's grid: an organ's label, --background, and 0 where nothing is drawn.")],  # noqa: E501
    output: Annotated[Path, typer.Option("--output", "-o", help="The corrected mask: .nii.gz, .nii, .nrrd or .mha.")],  # noqa: E501
    folder: Annotated[Optional[Path], typer.Option("--build", help="The folder of a build, whose network has its say; without it contrast and mask alone decide.")] = None,  # noqa: E501, UP045
    channel: Annotated[Optional[list[Path]], typer.Option("--channel", help="The image of the network's second channel, and so on; repeatable.")] = None,  # noqa: E501, UP045
    background: Annotated[int, typer.Option(help="The value of strokes of background.")] = BACKGROUND,  # noqa: E501
    margin: Annotated[float, typer.Option(help="How far from a stroke voxels may change, in mm.")] = MARGIN_MM,  # noqa: E501
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:  # fmt: skip
    """Correct a mask by strokes drawn on its image: a graph cut around them."""
    from lmaunet.deploy import commands

    images = [image, *(channel or ())]
    console.show(
        *commands.refine(images, mask, scribbles, output, folder, background, margin), as_json
    )
