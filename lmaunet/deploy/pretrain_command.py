"""``lmaunet-deploy pretrain`` on the command line; :mod:`lmaunet.deploy.pretraining` does it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from lmaunet.deploy import console, defaults
from lmaunet.deploy.command_options import command, offer
from lmaunet.spec import SPECS
from lmaunet.train import masking


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    command(app, "pretrain")(pretrain)


def pretrain(
    data: Annotated[Path, typer.Option("--data", help="Images: a folder, or a set with labels, which are not read; of it the cases that train.")],  # noqa: E501
    spec_name: Annotated[str, typer.Option("--spec", help="base, edge, demo, or a JSON file with a spec's fields.", autocompletion=offer(*SPECS))] = "demo",  # noqa: E501
    run: Annotated[Optional[Path], typer.Option("--run", help="The run's folder; one under runs/ named after spec and data if not given.")] = None,  # noqa: E501, UP045
    mask_block: Annotated[int, typer.Option(help="Side of a masked block in pixels.")] = masking.BLOCK,  # noqa: E501
    mask_share: Annotated[float, typer.Option(help="Share of the blocks that is masked.")] = masking.SHARE,  # noqa: E501
    epochs: Annotated[int, typer.Option(help="Passes over the slices.")] = defaults.PRETRAIN_EPOCHS,
    learning_rate: Annotated[float, typer.Option(help="Peak learning rate.")] = defaults.PRETRAIN_RATE,  # noqa: E501
    batch_size: Annotated[int, typer.Option(help="Slices in a step.")] = defaults.BATCH_SIZE,
    classes: Annotated[Optional[int], typer.Option(help="Classes with background, of the head that is left untrained.")] = None,  # noqa: E501, UP045
    channels: Annotated[Optional[int], typer.Option(help="Image channels.")] = None,  # noqa: UP045
    input_size: Annotated[Optional[int], typer.Option(help="Height and width.")] = None,  # noqa: UP045
    seed: Annotated[int, typer.Option("--seed", help="Random seed.", min=0, max=2**63 - 1)] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:  # fmt: skip
    """Pretrain a network on images without labels: it restores blocks that are masked.

    The same command resumes after an interruption. Next is train --init.
    """
    from lmaunet.deploy import pretraining
    from lmaunet.stated_spec import state_spec
    from lmaunet.train.schedule import Schedule

    spec = state_spec(spec_name, classes, channels, input_size).for_training()
    schedule = Schedule(epochs, learning_rate, batch_size)
    masks = masking.Masking(mask_block, mask_share)
    console.show(*pretraining.pretrain(run, spec, data, schedule, masks, seed), as_json)
