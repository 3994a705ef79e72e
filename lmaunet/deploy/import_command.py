"""``lmaunet-deploy import`` on the command line; the work is in :mod:`lmaunet.deploy.importing`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from lmaunet.deploy import console
from lmaunet.deploy.command_options import command


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    command(app, "import")(import_network)


def import_network(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="What nnUNetv2_train wrote: nnUNet_results/DatasetXXX_NAME/TRAINER__PLANS__2d.")],  # noqa: E501
    fold: Annotated[Optional[str], typer.Option(help="Which fold, such as 0 or all; needed where several were trained.")] = None,  # noqa: E501, UP045
    checkpoint: Annotated[Optional[str], typer.Option(help="The file in the fold's folder; checkpoint_final.pth if not given.")] = None,  # noqa: E501, UP045
    run: Annotated[Optional[Path], typer.Option("--run", "-o", help="The run's folder; one under runs/ named after the network if not given.")] = None,  # noqa: E501, UP045
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:  # fmt: skip
    """Take a network that nnU-Net v2 trained; no code of nnU-Net runs."""
    from lmaunet.deploy.importing import import_folder

    console.show(*import_folder(folder, fold, checkpoint, run), as_json)
