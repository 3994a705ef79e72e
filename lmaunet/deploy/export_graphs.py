"""The files of an export: the ONNX graphs of a network, and of each kernel of an elastic one."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lmaunet.deploy.deployment import INTERFACE_FILE, Interface
from lmaunet.deploy.elastic_data import profile_data
from lmaunet.deploy.export_images import samples_of, write_calibration
from lmaunet.errors import UserError
from lmaunet.graph_spec import network_spec_of
from lmaunet.kernel_profiles import PROFILES, reference_kernel
from lmaunet.stage import sha256, write_json

if TYPE_CHECKING:
    from lmaunet.artifacts import Agreement
    from lmaunet.data.confidence import Dropout
    from lmaunet.data.dataset import Dataset
    from lmaunet.data.modalities import Modalities
    from lmaunet.deploy.runs import DataSource
    from lmaunet.graph_spec import NetworkSpec
    from lmaunet.train.schedule import Progress


def write_graphs(
    out: Path, float32: Any, quantized: Any, images: np.ndarray, progress: Progress
) -> None:
    """Write the three ONNX files and the samples into a folder."""
    import torch

    from lmaunet.export import network

    image = torch.from_numpy(images[:1])
    for fraction, name, write, model in (
        (0.0, network.FLOAT32, network.export_float32, float32),
        (0.2, network.QCDQ, network.export_qcdq, quantized),
        (0.4, network.QONNX, network.export_qonnx, quantized),
    ):
        progress(fraction, f"exporting {name}")
        write(model, image, out / name)
    np.savez_compressed(out / "samples.npz", images=images)


def network_of(path: Path) -> tuple[NetworkSpec, Any]:
    """Return what the network of a checkpoint is, and the network."""
    from lmaunet.net.checkpoint import load_checkpoint
    from lmaunet.sources.checkpoint import restore

    loaded = load_checkpoint(path)
    return loaded.spec, restore(loaded, path)


def write_export(
    out: Path,
    trained: Path,
    control: tuple[NetworkSpec, Any],
    data: Dataset,
    came_from: Mapping[str, str],
    progress: Progress,
    *,
    dropout: Dropout | None = None,
    modalities: Modalities | None = None,
) -> tuple[Agreement, ...]:
    """Write a quantized network's files into a folder and check them against torch.

    Args:
        out: the folder.
        trained: the folder with the network's ``model.pt`` and ``scan.json``.
        control: what the float network is that is exported beside it, and the network.
        data: in the network's size.
        came_from: digests for the interface, by name.
        progress: told what is being done.
        dropout, modalities: what the interface says of them.
    """
    from lmaunet.export import network
    from lmaunet.export.agreement import check_exports
    from lmaunet.export.scan_metadata import write_scan_formats
    from lmaunet.graph.file import topology_digest
    from lmaunet.quant.qat import load_quantized
    from lmaunet.quant.scan_formats import read_formats

    quantized, (spec, float32) = load_quantized(trained / "model.pt"), control
    samples = samples_of(data)
    digests = {**came_from, "quantized": sha256(trained / "model.pt")}
    graph = topology_digest(quantized.source)
    interface = Interface.of(spec, graph, data, digests, dropout, modalities)
    write_json(out / INTERFACE_FILE, interface.to_json())
    write_graphs(out, float32, quantized, samples, progress)
    write_calibration(out, data)
    formats = [entry.chosen.spec for entry in read_formats(trained / "scan.json")]
    for name in (network.QCDQ, network.QONNX) if formats else ():
        write_scan_formats(out / name, formats)
    progress(0.6, "checking the graphs against torch in ONNX Runtime")
    return check_exports(out, samples[:1], float32, quantized)


def write_profiles(
    out: Path,
    qat: Path,
    control: Path,
    options: Mapping[str, Any],
    source: DataSource,
    reference: Dataset,
    came_from: Mapping[str, str],
    progress: Progress,
) -> list[Agreement]:
    """Write the exports of an elastic network's other kernels; nothing for any other network.

    Each kernel has a folder with the files of an export, and its agreements are the same checks.

    Args:
        out: the export's folder.
        qat, control: the folders of the stages.
        options: those of the QAT stage, whose spec tells whether the network is elastic.
        source, reference: the data, and the data set in the reference kernel's size.
        came_from: digests for the interfaces.
        progress: told what is being done.
    """
    kernels = elastic_kernels(options)
    if not kernels:
        return []
    spec: Any = network_spec_of(options["spec"])
    middle = reference_kernel(kernels)
    agreements: list[Agreement] = []
    data = profile_data(source, spec, reference)
    for kernel in kernels:
        if kernel == middle:
            continue
        progress(0.7, f"exporting kernel {kernel}")
        place = f"{PROFILES}/{kernel}"
        (out / place).mkdir(parents=True)
        found = write_export(
            out / place, qat / place, network_of(control / place / "control.pt"), data[kernel],
            came_from, lambda *line: None,
        )  # fmt: skip
        agreements += [dataclasses.replace(a, name=f"kernel {kernel}: {a.name}") for a in found]
    return agreements


def elastic_kernels(options: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the kernels of an elastic network by the options of its QAT; none of any other."""
    content = options.get("spec")
    return tuple(getattr(network_spec_of(content), "elastic", ())) if content else ()


def kernel_folder(export: Path, kernel: int | None) -> Path:
    """Return the folder in an export that has a kernel's files; that of the export for None.

    Raises:
        UserError: where the export has no such kernel.
    """
    if kernel is None:
        return export
    others = {int(p.name): p for p in (export / PROFILES).glob("*") if p.name.isdigit()}
    middle = _middle(export)
    if middle is None or not others:
        raise UserError(
            f"--kernel {kernel}: {export} is of a network whose kernels are fixed; leave the "
            "option out, or train with --elastic"
        )
    if kernel == middle:
        return export
    if kernel not in others:
        raise UserError(
            f"--kernel {kernel}: {export} has the kernels "
            f"{', '.join(map(str, sorted([middle, *others])))}; give one of them"
        )
    return others[kernel]


def place_of(export: Path, kernel: int | None) -> str:
    """Return what the names of a kernel's files in an export begin with."""
    return "" if kernel in (None, _middle(export)) else f"{PROFILES}/{kernel}/"


def _middle(export: Path) -> int | None:
    from lmaunet.stage import read_json

    kernels = read_json(export / INTERFACE_FILE).get("network", {}).get("kernels", [])
    return int(kernels[0]) if kernels else None
