"""What a user says of a network on the command line: a spec by name or file, and single sizes."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from lmaunet.errors import UserError
from lmaunet.spec import SPECS, NetSpec, named_spec

LARGEST_FILE = 1_000_000
"""Bytes of a spec's JSON; a real one has a few hundred."""

_SHAPE_OF_DATA = ("classes", "in_channels", "input_size")
"""What a named spec does not fix: it depends on the data that the network is for."""


@dataclass(frozen=True)
class StatedSpec:
    """What is said of a network: fields of :class:`~lmaunet.spec.NetSpec`, and by which option.

    Args:
        base: the spec that the fields belong to; None where only sizes were given.
        said: for each field that was said, the option that said it.
        values: the value of each such field.
    """

    base: NetSpec | None = None
    said: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)

    @staticmethod
    def of(spec: NetSpec) -> StatedSpec:
        """Return a spec all of whose fields count as said."""
        names = [f.name for f in fields(NetSpec) if f.name != "name"]
        return StatedSpec(
            spec, dict.fromkeys(names, f"spec {spec.name}"), {n: getattr(spec, n) for n in names}
        )

    def for_training(self) -> NetSpec:
        """Return the network to train, which needs a base."""
        assert self.base is not None
        return self.base.replace(**self.values)


def state_spec(
    spec: str | None,
    classes: int | None = None,
    channels: int | None = None,
    input_size: int | None = None,
) -> StatedSpec:
    """Return what the options ``--spec``, ``--classes``, ``--channels``, ``--input-size`` say.

    Args:
        spec: a name, or a JSON file with the fields of a spec; what the file leaves out is not
            said.
        classes: with the background.
        channels: of an image.
        input_size: height and width; the depth of volumes stays that of the spec.

    Raises:
        UserError: an unknown name, an unreadable file, or a size that no network has.
    """
    base, said, values = None, {}, {}
    if spec is not None:
        option = f"--spec {spec}"
        if spec in SPECS or not _is_file(spec):
            base = named_spec(spec)
            names = [f.name for f in fields(NetSpec) if f.name not in ("name", *_SHAPE_OF_DATA)]
        else:
            content = _read_json(Path(spec))
            base = NetSpec.from_json(content)
            names = [name for name in content if name != "name"]
            # a file that gives the widths fixes those of the decoder that follow from them
            names += [n for n in ("decoder_widths", "pyramid_width") if n not in names]
        said = dict.fromkeys(names, option)
        values = {name: getattr(base, name) for name in names}
    for name, option, value in (
        ("classes", f"--classes {classes}", classes),
        ("in_channels", f"--channels {channels}", channels),
        ("input_size", f"--input-size {input_size}", input_size),
    ):
        if value is None:
            continue
        given: int | tuple[int, ...] = value
        if name == "input_size":
            deep = base.input_size[:1] if base is not None and base.dims == 3 else ()
            given = (*deep, value, value)
        least = 2 if name == "classes" else 1
        if value < least or value > NetSpec.LARGEST[name]:
            raise UserError(f"{option}; give {least} to {NetSpec.LARGEST[name]:,}")
        if name in said and values[name] != given:
            raise UserError(
                f"{option}, but {said[name]} says {_shown(values[name])}; give one of them"
            )
        said, values = {**said, name: option}, {**values, name: given}
    return StatedSpec(base, said, values)


def _shown(value: Any) -> str:
    return "x".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _is_file(text: str) -> bool:
    return text.lower().endswith(".json") or "/" in text or Path(text).is_file()


def _read_json(path: Path) -> dict[str, Any]:
    """Return the fields in a spec's file; that of ``spec NAME --json`` is one too."""
    try:
        if not path.is_file():
            raise UserError(
                f"--spec {path} does not exist or is no file; give one of {', '.join(SPECS)}, or a "
                "JSON file with the fields that lmaunet-deploy spec NAME --json shows"
            )
        if path.stat().st_size > LARGEST_FILE:
            raise UserError(f"--spec {path} is larger than a spec; give a JSON file of its fields")
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"--spec {path} cannot be read as JSON ({error}); write it as lmaunet-deploy spec NAME "
            "--json shows it"
        ) from error
    if isinstance(content, dict) and isinstance(content.get("spec"), dict):
        content = content["spec"]
    if not isinstance(content, dict):
        raise UserError(
            f"--spec {path} holds a {type(content).__name__}, expected an object with the fields "
            "that lmaunet-deploy spec NAME --json shows"
        )
    content = {"name": re.sub(r"[^A-Za-z0-9._-]", "-", path.stem)[:60] or "custom", **content}
    try:
        NetSpec.from_json(content)
    except UserError as error:
        raise UserError(f"--spec {path}: {error}") from error
    return content
