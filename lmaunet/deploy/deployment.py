"""What makes a build usable alone: ``deployment.json``, and a build read from its folder.

``interface.json`` of an export says what goes into the network and what comes out; each build's
``deployment.json`` repeats it and adds the target and its file, so that a build's folder needs
neither the run that it came from nor the data.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmaunet.artifacts import Agreement, Build
from lmaunet.data.confidence import Dropout
from lmaunet.data.modalities import Modalities
from lmaunet.data.preparation import ImagePreparation
from lmaunet.data.preparations import preparation_of, read_preparation
from lmaunet.errors import UserError
from lmaunet.graph_spec import NetworkSpec, network_spec_of
from lmaunet.kernel_profiles import KernelProfiles
from lmaunet.spec import NetSpec
from lmaunet.stage import read_json, read_stage, sha256, tool_versions, write_json

if TYPE_CHECKING:
    from lmaunet.data.dataset import Dataset

SCHEMA = 1
REBUILD = "lmaunet-deploy build --target TARGET"
MEND = f"copy the whole folder again, or build it again with: {REBUILD}"
FILE, INTERFACE_FILE, BUILD_FILE = "deployment.json", "interface.json", "build.json"


@dataclass(frozen=True)
class Interface:
    """What a network takes and gives.

    Args:
        network: its spec.
        graph: the digest of its graph, whatever its weights are; empty in builds of before.
        classes: class names by index, the background first.
        preparation: how an image becomes its input.
        spacing_mm: z, y, x spacing of the slices that it was trained on; None where it is unknown
            or cases differ.
        data: ``name`` and ``label_source`` of that data, and whether it is ``synthetic``.
        digests: SHA-256 by name of what the network came from.
        dropout: what it says of its confidence; None where it was trained without dropout.
        modalities: what it knows of missing modalities; None where nothing.
    """

    network: NetworkSpec
    graph: str
    classes: tuple[str, ...]
    preparation: ImagePreparation
    spacing_mm: tuple[float | None, float | None, float | None]
    data: Mapping[str, Any]
    digests: Mapping[str, str]
    dropout: Dropout | None = None
    modalities: Modalities | None = None

    @staticmethod
    def of(
        network: NetworkSpec, graph: str, data: Dataset, digests: Mapping[str, str],
        dropout: Dropout | None = None, modalities: Modalities | None = None,
    ) -> Interface:  # fmt: skip
        """Return the interface of a network that was trained on a data set."""
        preparation = preparation_of(data)
        z, y, x = (None if math.isnan(mm) else float(mm) for mm in data.spacing_mm)
        named = {
            "name": data.name, "label_source": data.label_source, "synthetic": data.synthetic
        }  # fmt: skip
        return Interface(
            network,
            graph,
            data.classes,
            preparation,
            (z, y, x),
            named,
            dict(digests),
            dropout,
            modalities,
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON; lengths in mm."""
        ready = self.preparation
        return {
            "network": self.network.to_json(),
            "graph": self.graph,
            "classes": list(self.classes),
            "input": {"channels": self.network.in_channels, "size": list(self.network.input_size)},
            **ready.to_json(),
            "spacing_mm": list(self.spacing_mm),
            "data": dict(self.data),
            "sha256": dict(self.digests),
            **({} if self.dropout is None else {"confidence": self.dropout.to_json()}),
            **({} if self.modalities is None else {"modalities": self.modalities.to_json()}),
        }

    @staticmethod
    def from_json(content: Mapping[str, Any], where: str) -> Interface:
        """Return the interface that :meth:`to_json` wrote; other keys are ignored.

        Raises:
            UserError: for anything else; the message begins with ``where``.
        """
        try:
            network = network_spec_of(content["network"])
            classes = tuple(_strings(content["classes"]))
            given = content["input"]["channels"], tuple(content["input"]["size"])
            z, y, x = (None if mm is None else _length(mm) for mm in content["spacing_mm"])
            data, digests = content["data"], content["sha256"]
            preparation = read_preparation(content, where, network.input_size, network.in_channels)
            named = {
                "name": str(data["name"]),
                "label_source": str(data["label_source"]),
                "synthetic": bool(data["synthetic"]),
            }
            modalities = Modalities.from_json(content.get("modalities"), network.in_channels)
            (graph,) = _strings([content.get("graph", "")])
            _strings(digests.values())
            digests = dict(digests)
            dropout = Dropout.from_json(content.get("confidence"))
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError, UserError) as error:
            reason = str(error) if isinstance(error, UserError) else repr(error)
            raise UserError(f"{where} is damaged ({reason}); {MEND}") from error
        if given != (network.in_channels, network.input_size) or len(classes) != network.classes:
            raise UserError(
                f"{where} is damaged: input {given} and {len(classes)} classes for a network of "
                f"{network.in_channels} channel(s), {network.input_size} and {network.classes} "
                f"classes; {MEND}"
            )
        return Interface(
            network, graph, classes, preparation, (z, y, x), named, digests, dropout, modalities
        )


@dataclass(frozen=True)
class Deployment:
    """A build and what its network takes and gives.

    ``shipped`` is the name of the file that goes to the device, in the build's folder; ``ships``
    has it and what it needs beside it, each with ``name``, ``bytes`` and ``sha256``, and is empty
    in a build of an earlier version. ``digests`` has the SHA-256 of the first as ``shipped``, that
    of the exported graph as ``qcdq``, and those of the FP32 and the quantized ``checkpoint``.
    ``versions`` are of the tools that built it. ``kernels`` are those of an elastic network, None
    for any other, and ``profiles`` has by kernel the deployment of each but the reference.
    """

    target: str
    shipped: str
    interface: Interface
    digests: Mapping[str, str]
    versions: Mapping[str, str]
    ships: tuple[Mapping[str, Any], ...] = ()
    kernels: KernelProfiles | None = None
    profiles: Mapping[int, Deployment] = field(default_factory=dict)

    @staticmethod
    def of(
        build: Build, interface: Interface, qcdq: Path, profiles: Profiles | None = None
    ) -> Deployment:
        """Return the deployment of a build that was just made from an exported graph.

        ``profiles`` has the interface and the exported graph of each of the build's profiles.
        """
        digests = {**interface.digests, "qcdq": sha256(qcdq), "shipped": sha256(build.shipped)}
        shipped = str(build.shipped.relative_to(build.folder))
        ships = tuple(
            {
                "name": str(path.relative_to(build.folder)),
                "bytes": path.stat().st_size,
                "sha256": sha256(path),
            }
            for path in build.ships
        )
        others = {
            kernel: Deployment.of(build.profiles[kernel], *of_kernel)
            for kernel, of_kernel in (profiles or {}).items()
        }
        kernels = None if not others else kernels_of(interface, others)
        return Deployment(
            build.target, shipped, interface, digests, tool_versions(), ships, kernels, others
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON."""
        return {
            "schema": SCHEMA,
            "target": self.target,
            "shipped": self.shipped,
            "ships": [dict(file) for file in self.ships],
            **self.interface.to_json(),
            "sha256": dict(self.digests),
            "versions": dict(self.versions),
            **({} if self.kernels is None else {
                "kernels": self.kernels.to_json(),
                "profiles": {str(k): other.to_json() for k, other in self.profiles.items()},
            }),
        }  # fmt: skip

    @staticmethod
    def from_json(content: Any, where: str) -> Deployment:
        """Return the deployment that :meth:`to_json` wrote.

        Raises:
            UserError: for another schema or anything else; the message begins with ``where``.
        """
        if not isinstance(content, dict) or "schema" not in content:
            raise UserError(f"{where} is damaged: it is no deployment; {MEND}")
        if content["schema"] != SCHEMA:
            raise UserError(
                f"{where} has schema {content['schema']!r}, expected {SCHEMA}: another version of "
                "lmaunet-deploy made this build; use that version, or build it again with this one"
            )
        interface = Interface.from_json(content, where)
        others: dict[int, Deployment] = {}
        try:
            for kernel, other in content.get("profiles", {}).items():
                others[int(kernel)] = Deployment.from_json(other, f"{where}, kernel {kernel}")
            ready = interface.preparation
            kernels = KernelProfiles.from_json(
                content["kernels"], ready.size, ready.resampled_mm
            ) if "kernels" in content else None  # fmt: skip
            expected = () if kernels is None else kernels.kernels
            own = () if kernels is None else (kernels.reference,)
            if sorted([*others, *own]) != sorted(expected):
                raise ValueError(f"profiles {sorted(others)} of kernels {expected}")
            target, shipped = _strings([content["target"], content["shipped"]])
            versions = {str(k): str(v) for k, v in content["versions"].items()}
            interface.digests["shipped"]
            ships = tuple(
                {
                    "name": str(file["name"]),
                    "bytes": int(file["bytes"]),
                    "sha256": str(file["sha256"]),
                }
                for file in content.get("ships", ())
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"{where} is damaged ({error!r}); {MEND}") from error
        return Deployment(
            target, shipped, interface, interface.digests, versions, ships, kernels, others
        )


Profiles = Mapping[int, tuple[Interface, Path]]
"""By kernel the interface of a profile, and the exported graph that it was built from."""


def kernels_of(interface: Interface, others: Mapping[int, Deployment]) -> KernelProfiles:
    """Return the kernels of a deployment and its profiles, with their thresholds."""
    network, ready = interface.network, interface.preparation
    assert isinstance(network, NetSpec)
    reference = network.kernels[0]
    assert isinstance(reference, int)
    return KernelProfiles.of([reference, *others], reference, ready.size, ready.resampled_mm)


def _strings(values: Any) -> list[str]:
    found = list(values)
    if isinstance(values, str) or not all(isinstance(v, str) for v in found):
        raise TypeError(f"{found!r}: expected strings")
    return found


def _length(value: Any) -> float:
    found = float(value)
    if not (math.isfinite(found) and found > 0):
        raise ValueError(f"{value!r}: expected a positive length")
    return found


def write_build(
    build: Build, interface: Interface, qcdq: Path, profiles: Profiles | None = None
) -> None:
    """Write ``build.json`` and ``deployment.json`` of a build that was just made into its folder.

    Args:
        build: what the target made.
        interface: that of the network.
        qcdq: the exported graph that it was built from.
        profiles: those of an elastic network's other kernels.
    """
    write_json(build.folder / BUILD_FILE, _build_json(build, build.folder))
    deployment = Deployment.of(build, interface, qcdq, profiles)
    write_json(build.folder / FILE, deployment.to_json())


def _build_json(build: Build, root: Path) -> dict[str, Any]:
    return {
        "target": build.target,
        "shipped": str(build.shipped.relative_to(build.folder)),
        "beside": [str(path.relative_to(build.folder)) for path in build.beside],
        "agreements": [a.to_json() for a in build.agreements],
        "detail": build.detail,
        **({} if build.folder == root else {"folder": str(build.folder.relative_to(root))}),
        **({} if not build.profiles else {
            "profiles": {str(k): _build_json(other, root) for k, other in build.profiles.items()}
        }),
    }  # fmt: skip


def read_build(folder: Path) -> Build:
    """Return the build in a folder whose manifest has been checked."""
    return _build_of(read_json(folder / BUILD_FILE), folder)


def _build_of(content: Mapping[str, Any], root: Path) -> Build:
    folder = root / content.get("folder", ".")
    agreements = tuple(Agreement(**a) for a in content["agreements"])
    return Build(
        content["target"], folder, folder / content["shipped"], agreements, content["detail"],
        # a build of an earlier version names only the first
        tuple(folder / name for name in content.get("beside", ())),
        {int(k): _build_of(other, root) for k, other in content.get("profiles", {}).items()},
    )  # fmt: skip


def open_build(folder: Path) -> tuple[Build, Deployment]:
    """Return a build and its deployment from the build's folder alone, wherever it lies.

    Every file of it is compared with the SHA-256 in its manifest.

    Raises:
        UserError: where there is no build, another version made it, or a file is missing, damaged
            or edited.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder; give that of a build, such as runs/NAME/build/ort")
    if not (folder / "manifest.json").exists():
        inside = sorted(p.parent for p in folder.glob("build/*/manifest.json"))
        inside = inside or sorted(p.parent for p in folder.glob("*/" + FILE))
        found = f"; it has {', '.join(map(str, inside))}" if inside else ""
        raise UserError(
            f"{folder} holds no finished build{found}; give the folder of one, such as "
            "runs/NAME/build/ort"
        )
    manifest = read_stage(folder, REBUILD)
    path = folder / FILE
    if FILE not in manifest["outputs"] or BUILD_FILE not in manifest["outputs"]:
        raise UserError(
            f"{folder} holds no {FILE}: it is another stage than a build, or an earlier version "
            f"built it; make it again with: {REBUILD}"
        )
    try:
        deployment = Deployment.from_json(read_json(path), str(path))
        build = read_build(folder)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} or {BUILD_FILE} is damaged ({error!r}); {MEND}") from error
    named = (build.target, str(build.shipped.relative_to(folder)))
    if named != (deployment.target, deployment.shipped):
        raise UserError(
            f"{path} is of {deployment.target} and {deployment.shipped}, {BUILD_FILE} beside it of "
            f"{named[0]} and {named[1]}: the folder is mixed from two builds; {MEND}"
        )
    if not build.shipped.is_file() or sha256(build.shipped) != deployment.digests["shipped"]:
        raise UserError(
            f"{build.shipped} is not the file that {path} describes (its SHA-256 differs); {MEND}"
        )
    _check_profiles(build, deployment, path)
    return build, deployment


def _check_profiles(build: Build, deployment: Deployment, path: Path) -> None:
    """Raise UserError where the files of a build's profiles are not those that are described."""
    if sorted(build.profiles) != sorted(deployment.profiles):
        raise UserError(
            f"{path} has the kernels {sorted(deployment.profiles)} beside its own, {BUILD_FILE} "
            f"{sorted(build.profiles)}: the folder is mixed from two builds; {MEND}"
        )
    for kernel, other in build.profiles.items():
        described = deployment.profiles[kernel]
        name = str(other.shipped.relative_to(other.folder))
        same = (other.target, name) == (described.target, described.shipped)
        if not (same and other.shipped.is_file()) or (
            sha256(other.shipped) != described.digests["shipped"]
        ):
            raise UserError(
                f"{other.shipped} is not the file that {path} describes for kernel {kernel}; {MEND}"
            )
