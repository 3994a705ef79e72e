"""A network of a MONAI bundle: ``configs/``, of which ``network_def`` makes it, and ``models/``.

:func:`read_bundle` reads the folder without running anything. :func:`make` lets MONAI's
ConfigParser build the network, which runs what the configuration names, in the process of
:mod:`lmaunet.sources.foreign_worker` alone. The bundle's transforms are not followed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmaunet.data.user_json import is_whole, read_user_json, shown
from lmaunet.errors import ToolNotFound, UserError
from lmaunet.packages import install_command
from lmaunet.sources.state_dicts import matching_state

__all__ = ["REMEDY", "WHOSE", "Bundle", "is_bundle", "make", "read_bundle", "state"]

WHOSE = "network_def of the bundle"
REMEDY = "give the models/ and configs/ of one bundle"
CONFIGS, METADATA, WEIGHTS = "configs", "metadata.json", Path("models") / "model.pt"
NAMES = ("inference", "evaluate", "train")
ENDINGS = (".json", ".yaml", ".yml")
SIZE = "--input-size, such as 256 or 256x320"

state = matching_state


@dataclass(frozen=True)
class Bundle:
    """What is known of a bundle before anything runs.

    Args:
        folder, config, weights: where they are.
        name: what reports call it.
        channels: of its images.
        size: height and width, None where only the user can say.
        classes: names by index, None where the bundle does not say.
    """

    folder: Path
    config: Path
    weights: Path
    name: str
    channels: int
    size: tuple[int, int] | None
    classes: tuple[str, ...] | None


def is_bundle(folder: Path) -> bool:
    """Whether a folder looks like a bundle."""
    return (folder / CONFIGS).is_dir() and (
        (folder / CONFIGS / METADATA).is_file() or _config(folder) is not None
    )


def _config(folder: Path) -> Path | None:
    files = (folder / CONFIGS / f"{name}{ending}" for name in NAMES for ending in ENDINGS)
    return next((file for file in files if file.is_file()), None)


def read_bundle(folder: Path) -> Bundle:
    """Read what a bundle says of its network.

    Raises:
        UserError: where a file lacks, or the network is not for 2-D images.
    """
    config = _config(folder)
    lacking = [] if config else [f"{CONFIGS}/{NAMES[0]}.json"]
    if not (folder / WEIGHTS).is_file():
        lacking.append(str(WEIGHTS))
    if lacking or config is None:
        raise UserError(
            f"{folder} is a MONAI bundle without {' and '.join(lacking)}; download all of it, such "
            "as: python -m monai.bundle download NAME"
        )
    metadata = folder / CONFIGS / METADATA
    content = read_user_json(metadata) if metadata.is_file() else {}
    formats = content.get("network_data_format") if isinstance(content, dict) else None
    image = _first(formats, "inputs")
    shape: Any = image.get("spatial_shape")
    if config.suffix == ".json":
        said = read_user_json(config)
        network = said.get("network_def") if isinstance(said, dict) else None
        if network is None:
            raise UserError(
                f"{config} has no network_def, which makes a bundle's network; give a bundle whose "
                f"{config.name} has one"
            )
        dims = network.get("spatial_dims") if isinstance(network, dict) else None
        _check_dims(dims, f"{config}: spatial_dims of network_def")
    if isinstance(shape, list):
        _check_dims(len(shape), f"{metadata}: spatial_shape {shown(shape)}")
    whole = isinstance(shape, list) and all(is_whole(n) and n > 0 for n in shape)
    channels: Any = image.get("num_channels")
    return Bundle(
        folder,
        config,
        folder / WEIGHTS,
        f"monai-{folder.resolve().name}",
        channels if is_whole(channels) and channels > 0 else 1,
        (shape[0], shape[1]) if whole else None,
        _classes(_first(formats, "outputs").get("channel_def")),
    )


def _first(formats: Any, of: str) -> dict[str, Any]:
    """Return the first of a bundle's inputs or outputs."""
    found = formats.get(of) if isinstance(formats, dict) else None
    entries = [entry for entry in found.values() if isinstance(entry, dict)] if isinstance(
        found, dict) else []  # fmt: skip
    return entries[0] if entries else {}


def _check_dims(dims: Any, where: str) -> None:
    if is_whole(dims) and dims != 2:
        raise UserError(
            f"{where}: a network for images of {dims} dimensions; 2-D networks are deployed here; "
            "give a bundle of a 2-D one"
        )


def _classes(said: Any) -> tuple[str, ...] | None:
    """Return the outputs' names, None unless there is a different one for each index."""
    if not isinstance(said, dict) or len(said) < 2:
        return None
    names = [said.get(str(index)) for index in range(len(said))]
    if not all(isinstance(name, str) and name.strip() for name in names):
        return None
    return tuple(map(str, names)) if len(set(names)) == len(names) else None


def make(arguments: Mapping[str, Any]) -> Any:
    """Return the network of a bundle; runs what its configuration names.

    Args:
        arguments: ``config``, the file.

    Raises:
        UserError: where the file has no network_def.
        ToolNotFound: without MONAI, or PyYAML for a configuration in YAML.
    """
    try:
        from monai.bundle import ConfigParser
    except ModuleNotFoundError as error:
        raise ToolNotFound(
            "monai", "to build a bundle's network", install_command("monai")
        ) from error
    config = Path(arguments["config"])
    if config.suffix != ".json":
        try:
            import yaml  # noqa: F401
        except ModuleNotFoundError as error:
            raise ToolNotFound(
                "PyYAML", f"to read {config.name}", install_command("PyYAML")
            ) from error
    parser = ConfigParser()
    parser.read_config(str(config))
    # paths of a bundle are relative to it
    parser["bundle_root"] = str(config.parent.parent)
    if "network_def" not in parser:
        raise UserError(
            f"{config} has no network_def, which makes a bundle's network; give a bundle whose "
            f"{config.name} has one"
        )
    return parser.get_parsed_content("network_def", instantiate=True)
