"""``lmaunet-deploy heatmap`` on the command line; :mod:`lmaunet.deploy.heatmap` does it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from lmaunet.deploy import console, defaults
from lmaunet.deploy.command_options import command, offer


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    command(app, "heatmap")(heatmap)


def heatmap(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="NIfTI, NRRD, MetaImage or DICOM file, or a DICOM folder; one for each channel of the network.")],  # noqa: E501
    wanted: Annotated[str, typer.Option("--class", help="The class, by name or index.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The map: .nii.gz, .nii, .nrrd or .mha; with several blocks one file for each, its name before the suffix.")],  # noqa: E501
    ckpt: Annotated[Optional[Path], typer.Option("--ckpt", help="A trained checkpoint, float or quantized.")] = None,  # noqa: E501, UP045
    run: Annotated[Optional[Path], typer.Option("--run", help="A run, whose float network is explained; the newest under runs/ if neither this nor --ckpt is given.")] = None,  # noqa: E501, UP045
    data: Annotated[Optional[Path], typer.Option("--data", help="What the checkpoint was trained on, where it lies in no run: it says how images are prepared.")] = None,  # noqa: E501, UP045
    stage: Annotated[Optional[str], typer.Option(help="One block, such as lkm3, or a value of the network's graph; each LKM if not given.")] = None,  # noqa: E501, UP045
    pixels: Annotated[str, typer.Option(help="Which pixels to explain: those that the network gives the class (mask), or all.", autocompletion=offer("mask", "all"))] = "mask",  # noqa: E501
    quantized: Annotated[bool, typer.Option("--quantized", help="Explain the run's QAT network.")] = False,  # noqa: E501
    overlap: Annotated[float, typer.Option(help="Overlap of windows, as a share of their side.")] = defaults.OVERLAP,  # noqa: E501
    batch: Annotated[int, typer.Option(help="Slices at a time.")] = defaults.INFER_BATCH,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:  # fmt: skip
    """Write where in an image a network looks for a class: a map for each LKM, 0 to 1."""
    from lmaunet.deploy import heatmap as explaining

    options = explaining.HeatmapOptions(stage, pixels, quantized, overlap, batch)
    shown = explaining.heatmap(run, ckpt, data, images, wanted, output, options)
    console.show(*shown, as_json)
