"""The command ``import``: a network that was trained elsewhere becomes a checkpoint in a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmaunet.deploy import console
from lmaunet.deploy.console import progress_bar
from lmaunet.deploy.run_lock import in_use
from lmaunet.deploy.runs import IMPORTED, RUNS
from lmaunet.errors import UserError

if TYPE_CHECKING:
    from lmaunet.sources.given import GivenNetwork
    from lmaunet.sources.imported import Imported
    from lmaunet.sources.nnunet import NnunetNetwork

KINDS = {
    "nnU-Net's folder": ("fold", "checkpoint", "code"),
    "--module": ("code", "module", "arguments", "input_size", "channels", "class_names"),
    "a MONAI bundle": ("input_size", "channels", "class_names"),
}
"""What can be imported, and the options of each."""
Progress = Callable[[float, str], None]


@dataclass(frozen=True)
class ImportOptions:
    """The options of the command, as typed; None where not given."""

    fold: str | None = None
    checkpoint: str | None = None
    code: Path | None = None
    module: str | None = None
    arguments: str | None = None
    input_size: str | None = None
    channels: int | None = None
    class_names: str | None = None


def import_from(source: Path, options: ImportOptions, run: Path | None) -> tuple[Any, list[str]]:
    """Import a network into a run; return the command's JSON and its lines.

    Args:
        source: ``nnUNet_results/DatasetXXX_NAME/TRAINER__PLANS__2d``, a MONAI bundle's folder, or
            with ``module`` a file of weights.
        options: of the command.
        run: the run's folder; one named after the network if not given.

    Raises:
        UserError: where the network can't be deployed, or an option is another kind's.
        ToolNotFound: where a package is missing.
        Disagreement: where the graph computes something else than the network.
    """
    with progress_bar("importing") as progress:
        from lmaunet.sources import monai_bundle

        kind = "nnU-Net's folder"
        if options.module is not None:
            kind = "--module"
        elif source.is_dir() and monai_bundle.is_bundle(source):
            kind = "a MONAI bundle"
        elif source.is_file():
            raise UserError(
                f"{source} is a file; give a folder that nnU-Net's training or a MONAI bundle "
                "left, or the code that makes its network by --module PACKAGE.MODULE:NAME"
            )
        _check_options(kind, options)
        if kind == "nnU-Net's folder":
            return _nnunet(source, options, run, progress)
        return _given(source, options, run, progress)


def _check_options(kind: str, options: ImportOptions) -> None:
    for name, value in vars(options).items():
        if value is not None and name not in KINDS[kind]:
            owners = [other for other, names in KINDS.items() if name in names]
            raise UserError(
                f"--{name.replace('_', '-')} is for {' and '.join(owners)}; this is {kind}: leave "
                "it out"
            )


def warn(maker: str, place: Path) -> None:
    """Say, whatever ``--quiet`` says, that code runs which is not this program's."""
    console.warn(
        f"warning: to build the network, the code of {maker} is run once, with your rights; "
        f"{place / IMPORTED} is loaded without it afterwards"
    )


def _nnunet(
    folder: Path, options: ImportOptions, run: Path | None, progress: Progress
) -> tuple[Any, list[str]]:
    from lmaunet.sources.nnunet import CHECKPOINT, import_network, read_nnunet

    network = read_nnunet(folder, options.fold, options.checkpoint or CHECKPOINT, options.code)
    place = run or RUNS / network.name
    if network.code is not None:
        warn(f"{network.trainer} in {network.code.file}", place)
    progress(0.3, "capturing the network")
    with in_use(place):
        written = import_network(network, place / IMPORTED, _told(progress))
    content = {
        **_content(written, place, network.checkpoint),
        "trainer": network.trainer,
        "fold": network.fold,
        "dataset": network.plan.dataset,
        "plans": network.plan.name,
        "configuration": network.plan.configuration,
        "classes": list(network.classes),
        "channels": list(network.channels),
        "recipe": network.recipe.to_json(),
    }
    return content, _nnunet_lines(network, content)


def _given(
    source: Path, options: ImportOptions, run: Path | None, progress: Progress
) -> tuple[Any, list[str]]:
    from lmaunet.sources.given import bundle_network, class_names, import_given, module_network
    from lmaunet.sources.monai_bundle import read_bundle
    from lmaunet.sources.torch_module import parse_size

    size = None if options.input_size is None else parse_size(options.input_size)
    classes = class_names(options.class_names)
    if options.module is None:
        network = bundle_network(read_bundle(source), size, options.channels, classes)
    else:
        network = module_network(
            source, options.module, options.code, options.arguments, size,
            1 if options.channels is None else options.channels, classes,
        )  # fmt: skip
    place = run or RUNS / network.name
    warn(network.maker, place)
    progress(0.3, "running its code")
    with in_use(place):
        written = import_given(network, place / IMPORTED, _told(progress))
    content = {
        **_content(written, place, network.request.checkpoint),
        "maker": network.maker,
        "classes": None if network.classes is None else list(network.classes),
    }
    return content, _given_lines(network, written, content)


def _told(progress: Progress) -> Callable[[str], None]:
    return lambda text: progress(0.3, text)


def _content(written: Imported, run: Path, weights: Path) -> dict[str, Any]:
    from lmaunet.deploy.fits import fits
    from lmaunet.graph.layers import layers

    rows = layers(written.graph)
    return {
        "run": str(run),
        "checkpoint": str(written.path),
        "from": str(weights),
        "network": written.spec.to_json(),
        "architecture": written.network,
        "params": sum(row.params for row in rows),
        "macs": sum(row.macs for row in rows),
        "agreement": written.agreement.to_json(),
        "notices": list(written.notices),
        "targets": fits(written.graph),
    }


def _cost(content: dict[str, Any]) -> str:
    height, width = content["network"]["input_size"]
    return (
        f"network: {content['network']['name']}, {content['architecture']} with "
        f"{content['params'] / 1e6:.3g} M parameters, {content['macs'] / 1e9:.3g} GMAC for "
        f"{height}x{width}"
    )


def _ending(content: dict[str, Any], data: str) -> list[str]:
    from lmaunet.deploy.fits import lines_of

    return [
        *(f"note: {notice}" for notice in content["notices"]),
        "the graph computes what the network does (largest difference of logits "
        f"{content['agreement']['max_abs']:.2g})",
        *lines_of(content["targets"]),
        f"wrote {content['checkpoint']}; next: lmaunet-deploy qat --ckpt {content['checkpoint']} "
        f"--data {data}",
    ]


def _nnunet_lines(network: NnunetNetwork, content: dict[str, Any]) -> list[str]:
    recipe = network.recipe
    height, width = recipe.patch_size
    row, column = recipe.spacing_mm
    channels = [
        f"{name} ({how.scheme}{', inside the filled non-zero voxels' if how.masked else ''})"
        for name, how in zip(network.channels, recipe.channels, strict=True)
    ]
    mirror = " and ".join(("rows", "columns")[axis] for axis in recipe.mirror_axes)
    return [
        _cost(content),
        f"trained by {network.trainer}, fold {network.fold}, {network.checkpoint.name}; plan "
        f"{network.plan.name}, configuration {network.plan.configuration}",
        f"classes: {', '.join(network.classes)}",
        f"channels: {', '.join(channels)}",
        f"images: {row:g}x{column:g} mm, windows of {height}x{width}, "
        + (f"mirrored along {mirror} in training" if mirror else "not mirrored in training"),
        *_ending(content, f"nnUNet_raw/{network.plan.dataset}"),
    ]


def _given_lines(network: GivenNetwork, written: Imported, content: dict[str, Any]) -> list[str]:
    classes = "as the data's, in their order" if network.classes is None else ", ".join(
        network.classes)  # fmt: skip
    return [
        _cost(content),
        f"made by {network.maker}",
        f"classes: {written.spec.classes}, {classes}; channels: {written.spec.in_channels}",
        *_ending(content, "DIR"),
    ]
