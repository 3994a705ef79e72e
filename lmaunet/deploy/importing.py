"""The command ``import``: a network that nnU-Net trained becomes a checkpoint in a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmaunet.deploy.console import progress_bar
from lmaunet.deploy.run_lock import in_use
from lmaunet.deploy.runs import IMPORTED, RUNS

if TYPE_CHECKING:
    from lmaunet.sources.nnunet import Imported, NnunetNetwork


def import_folder(
    folder: Path, fold: str | None, checkpoint: str | None, run: Path | None
) -> tuple[Any, list[str]]:
    """Import a trainer's folder into a run; return the command's JSON and its lines.

    Args:
        folder: ``nnUNet_results/DatasetXXX_NAME/TRAINER__PLANS__2d``.
        fold: which of several that are there.
        checkpoint: the file's name in the fold's folder; that of a finished training if not given.
        run: the run's folder; one named after the network if not given.

    Raises:
        UserError: where the folder can't be deployed.
        ToolNotFound: where a package is missing.
        Disagreement: where the graph computes something else than the network.
    """
    with progress_bar("importing") as progress:
        from lmaunet.sources.nnunet import CHECKPOINT, import_network, read_nnunet

        network = read_nnunet(folder, fold, checkpoint or CHECKPOINT)
        place = run or RUNS / network.name
        progress(0.3, "capturing the network")
        with in_use(place):
            written = import_network(network, place / IMPORTED)
    content = _content(network, written, place)
    return content, _lines(network, content)


def _content(network: NnunetNetwork, written: Imported, run: Path) -> dict[str, Any]:
    from lmaunet.graph.layers import layers

    rows = layers(written.graph)
    return {
        "run": str(run),
        "checkpoint": str(written.path),
        "from": str(network.checkpoint),
        "network": written.spec.to_json(),
        "architecture": network.plan.network,
        "params": sum(row.params for row in rows),
        "macs": sum(row.macs for row in rows),
        "trainer": network.trainer,
        "fold": network.fold,
        "dataset": network.plan.dataset,
        "plans": network.plan.name,
        "configuration": network.plan.configuration,
        "classes": list(network.classes),
        "channels": list(network.channels),
        "recipe": network.recipe.to_json(),
        "agreement": written.agreement.to_json(),
        "notices": list(network.notices),
    }


def _lines(network: NnunetNetwork, content: dict[str, Any]) -> list[str]:
    recipe = network.recipe
    height, width = recipe.patch_size
    row, column = recipe.spacing_mm
    channels = [
        f"{name} ({how.scheme}{', inside the filled non-zero voxels' if how.masked else ''})"
        for name, how in zip(network.channels, recipe.channels, strict=True)
    ]
    mirror = " and ".join(("rows", "columns")[axis] for axis in recipe.mirror_axes)
    agreement = content["agreement"]
    largest = agreement["max_abs"]
    return [
        f"network: {network.name}, {network.plan.network} with {content['params'] / 1e6:.3g} M "
        f"parameters, {content['macs'] / 1e9:.3g} GMAC for {height}x{width}",
        f"trained by {network.trainer}, fold {network.fold}, {network.checkpoint.name}; plan "
        f"{network.plan.name}, configuration {network.plan.configuration}",
        f"classes: {', '.join(network.classes)}",
        f"channels: {', '.join(channels)}",
        f"images: {row:g}x{column:g} mm, windows of {height}x{width}, "
        + (f"mirrored along {mirror} in training" if mirror else "not mirrored in training"),
        *(f"note: {notice}" for notice in network.notices),
        f"the graph computes what the network does (largest difference of logits {largest:.2g})",
        f"wrote {content['checkpoint']}; next: lmaunet-deploy qat --ckpt {content['checkpoint']} "
        f"--data nnUNet_raw/{network.plan.dataset}",
    ]
