"""Builds of an elastic network: every kernel a network of its own, what is equal stored once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmaunet.artifacts import Build, require_agreement
from lmaunet.deploy.defaults import PRECISIONS
from lmaunet.deploy.deployment import INTERFACE_FILE, Interface, Profiles
from lmaunet.deploy.export_graphs import kernel_folder
from lmaunet.deploy.export_images import calibration_of, images_of
from lmaunet.kernel_profiles import PROFILES
from lmaunet.stage import read_json, record_of

if TYPE_CHECKING:
    from lmaunet.deploy.targets import BuildRequest, Target

QCDQ, QONNX, FLOAT32 = "network.qcdq.onnx", "network.qonnx.onnx", "network.float32.onnx"


def profile_folders(export: Path) -> dict[int, Path]:
    """Return by kernel the folders of an export's other kernels; empty for any other network."""
    found = (export / PROFILES).glob("*") if (export / PROFILES).is_dir() else ()
    return {int(path.name): path for path in sorted(found) if path.name.isdigit()}


def build_inputs(
    target: Target, export: Path, options: Mapping[str, Any]
) -> tuple[Path, dict[str, Path]]:
    """Return the folder of an export that a build is made from, and by name what it reads of it.

    Only what a build reads makes it stale.

    Raises:
        UserError: where the options name a kernel that the export has not.
    """
    folder = kernel_folder(export, options.get("kernel"))
    inputs = {
        "qcdq": folder / QCDQ, "qonnx": folder / QONNX, "samples": folder / "samples.npz",
        "interface": folder / INTERFACE_FILE,
    }  # fmt: skip
    if options.get("precision", PRECISIONS[0]) != PRECISIONS[0]:
        inputs["float32"] = folder / FLOAT32
    inputs |= calibration_of(folder, options)
    if target.share is not None and profile_folders(export):
        inputs[PROFILES] = export / PROFILES
    return folder, inputs


def build_profiles(
    target: Target,
    built: Build,
    request: BuildRequest,
    export: Path,
) -> tuple[Build, Profiles]:
    """Build an elastic network's other kernels beside the reference, which is built already.

    Each is built and checked against its own exported graph as any network is. Then the target
    stores what the builds share once, and each is required to compute what it did, bit for bit.

    Args:
        target: which takes profiles.
        built: the reference kernel's build.
        request: what it was built from.
        export: the export's folder.

    Returns:
        The build with its profiles, and what each came from.
    """
    from lmaunet.export.reference import evidence_folder

    assert target.share is not None
    builds: dict[int, Build] = {}
    came_from: dict[int, tuple[Interface, Path]] = {}
    for kernel, folder in profile_folders(export).items():
        out = request.folder / PROFILES / str(kernel)
        out.mkdir(parents=True)
        files = {"samples": folder / "samples.npz", **calibration_of(folder, request.options)}
        samples, calibration = images_of(files)
        own = dataclasses.replace(
            request, folder=out, qcdq=folder / QCDQ, qonnx=folder / QONNX, samples=samples,
            float32=folder / FLOAT32 if request.float32 is not None else None,
            calibration=calibration,
            progress=_said_of(kernel, request.progress),
        )  # fmt: skip
        alone = target.build(own)
        wanted = target.run(alone, samples[:1])
        shared = target.share(built, alone, kernel)
        agreement = require_agreement(
            f"{target.name} kernel {kernel}, shared weights, logits",
            target.run(shared, samples[:1]), wanted, 0,
            evidence=evidence_folder(out),
        )  # fmt: skip
        named = [
            dataclasses.replace(a, name=f"kernel {kernel}: {a.name}") for a in alone.agreements
        ]
        builds[kernel] = dataclasses.replace(shared, agreements=(*named, agreement))
        with record_of(export):
            content = read_json(folder / INTERFACE_FILE)
        interface = Interface.from_json(content, str(folder / INTERFACE_FILE))
        came_from[kernel] = interface, folder / QCDQ
    return with_profiles(built, builds), came_from


def _said_of(kernel: int, progress: Callable[[str], None]) -> Callable[[str], None]:
    return lambda line: progress(f"kernel {kernel}: {line}")


def with_profiles(built: Build, builds: Mapping[int, Build]) -> Build:
    """Return a build with its profiles: their agreements are its own, their files ship with it."""
    beside = dict.fromkeys(built.beside)
    for other in builds.values():
        beside |= dict.fromkeys(other.ships)
    sizes = {
        str(kernel): {
            "shipped_bytes": other.shipped.stat().st_size,
            **other.detail.get("shared", {}),
        }
        for kernel, other in builds.items()
    }
    return dataclasses.replace(
        built, beside=tuple(beside), profiles=dict(builds),
        agreements=(*built.agreements, *(a for b in builds.values() for a in b.agreements)),
        detail={**built.detail, "profiles": sizes},
    )  # fmt: skip
