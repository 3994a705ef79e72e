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
    source: Annotated[Path, typer.Argument(metavar="FOLDER", help="What nnUNetv2_train wrote, nnUNet_results/DatasetXXX_NAME/TRAINER__PLANS__2d; a MONAI bundle; or with --module a file of weights.")],  # noqa: E501
    fold: Annotated[Optional[str], typer.Option(help="nnU-Net: which fold, such as 0 or all; needed where several were trained.")] = None,  # noqa: E501, UP045
    checkpoint: Annotated[Optional[str], typer.Option(help="nnU-Net: the file in the fold's folder; checkpoint_final.pth if not given.")] = None,  # noqa: E501, UP045
    code: Annotated[Optional[Path], typer.Option(help="The folder that holds the nnunetv2 which trained the network, for a trainer that does not come with nnU-Net; with --module the folder of the module. It is run once.")] = None,  # noqa: E501, UP045
    module: Annotated[Optional[str], typer.Option(help="PACKAGE.MODULE:NAME of a class or function that returns the network.")] = None,  # noqa: E501, UP045
    arguments: Annotated[Optional[str], typer.Option(help="--module: its keyword arguments, as JSON or a file with it.")] = None,  # noqa: E501, UP045
    input_size: Annotated[Optional[str], typer.Option(help="--module, bundle: pixels of an image, such as 256 or, height first, 256x320.")] = None,  # noqa: E501, UP045
    channels: Annotated[Optional[int], typer.Option(min=1, help="--module, bundle: of an image; 1, or what the bundle says, if not given.")] = None,  # noqa: E501, UP045
    class_names: Annotated[Optional[str], typer.Option(help="--module, bundle: names of the outputs, such as background,liver; the bundle's or the data's if not given.")] = None,  # noqa: E501, UP045
    run: Annotated[Optional[Path], typer.Option("--run", "-o", help="The run's folder; one under runs/ named after the network if not given.")] = None,  # noqa: E501, UP045
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:  # fmt: skip
    """Take a network that was trained elsewhere: by nnU-Net v2, in a MONAI bundle, or in torch.

    Code that is not this program's runs once, after a warning: with --code, --module or a bundle.
    """
    from lmaunet.deploy.importing import ImportOptions, import_from

    options = ImportOptions(
        fold, checkpoint, code, module, arguments, input_size, channels, class_names
    )
    console.show(*import_from(source, options, run), as_json)
