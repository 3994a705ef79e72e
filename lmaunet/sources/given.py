"""Networks that a user's own code or a MONAI bundle makes, from their weights to a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmaunet.data.user_json import check_names
from lmaunet.errors import UserError
from lmaunet.net.checkpoint_file import require_file
from lmaunet.sources.foreign import Request, run_foreign
from lmaunet.sources.imported import Imported, described, write
from lmaunet.sources.monai_bundle import SIZE, Bundle
from lmaunet.sources.torch_module import parse_arguments, parse_factory

PREPARED = (
    "images are prepared as this program does for its own networks (docs/data.md), whatever the "
    "network was trained on"
)


@dataclass(frozen=True)
class GivenNetwork:
    """A network whose code has not run yet.

    Args:
        name: what reports call it.
        request: what runs its code.
        classes: names by index, None where they are the data's.
        maker: what makes it, for a person.
        notices: what a user should know.
    """

    name: str
    request: Request
    classes: tuple[str, ...] | None
    maker: str
    notices: tuple[str, ...] = (PREPARED,)


def class_names(text: str | None) -> tuple[str, ...] | None:
    """Return the names of ``a,b,c``, the background first; raises UserError for other lists."""
    if text is None:
        return None
    names = tuple(name.strip() for name in text.split(","))
    if not all(names) or not all(name.isprintable() for name in names):
        raise UserError(f"--class-names {text[:60]}; expected names, such as background,liver")
    check_names(names, "--class-names")
    return names


def module_network(
    weights: Path,
    factory: str,
    code: Path | None,
    arguments: str | None,
    size: tuple[int, int] | None,
    channels: int,
    classes: Sequence[str] | None,
) -> GivenNetwork:
    """Return the network that a factory makes, with the weights of a file.

    Args:
        weights: a state dict, or what a trainer wrote around it.
        factory: ``package.module:name``.
        code: the folder in which the module is found first; the current one if not given.
        arguments: keyword arguments as JSON, or a file with them.
        size: height and width of its images.
        channels: of its images.
        classes: names of its outputs, None where they are the data's.

    Raises:
        UserError: for what can't be read.
    """
    require_file(weights)
    module, name = parse_factory(factory)
    given = parse_arguments(arguments)
    if code is not None and not code.is_dir():
        raise UserError(f"--code {code} is no folder; give the one that {module} is imported from")
    if size is None:
        raise UserError(f"--module {factory}: a graph is for images of one size; give {SIZE}")
    request = Request(
        "module", code or Path.cwd(), weights, (1, channels, *size),
        {"factory": factory, "arguments": given},
    )  # fmt: skip
    return GivenNetwork(
        f"{name.rpartition('.')[2]}-{weights.stem}"[:100],
        request,
        None if classes is None else tuple(classes),
        f"{factory} of {request.code}",
    )


def bundle_network(
    bundle: Bundle,
    size: tuple[int, int] | None,
    channels: int | None,
    classes: Sequence[str] | None,
) -> GivenNetwork:
    """Return the network of a bundle; what is None is the bundle's.

    Raises:
        UserError: where neither says the images' size.
    """
    size = size or bundle.size
    if size is None:
        raise UserError(
            f"{bundle.folder} does not say the size of its images, as network_data_format of "
            f"metadata.json would; a graph is for one size: give {SIZE}"
        )
    request = Request(
        "bundle", bundle.folder, bundle.weights, (1, channels or bundle.channels, *size),
        {"config": str(bundle.config.absolute())},
    )  # fmt: skip
    given = bundle.classes if classes is None else tuple(classes)
    notice = f"the bundle's transforms are not followed: {PREPARED}"
    return GivenNetwork(bundle.name, request, given, str(bundle.config), (notice,))


def import_given(
    network: GivenNetwork, path: Path, progress: Callable[[str], None] = lambda text: None
) -> Imported:
    """Run a network's code once, and write the network as a checkpoint of this program.

    Raises:
        UserError, ToolNotFound, Disagreement: as :func:`lmaunet.sources.foreign.run_foreign` does,
            and UserError for a network that does not segment images of two classes or more.
    """
    found = run_foreign(network.request, path.parent, progress)
    described(found.graph, network.name, network.classes)
    origin: dict[str, Any] = {"kind": network.request.kind, "network": found.network}
    return write(
        found.graph, found.weights, found.agreement, found.network, path,
        name=network.name, classes=network.classes,
        notices=(*found.notices, *network.notices), origin=origin,
    )  # fmt: skip
