"""QAT of an elastic network: every kernel quantized, trained by drawing one for each step."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from lmaunet.data.dataset import Dataset
from lmaunet.errors import UserError
from lmaunet.graph.file import topology_json
from lmaunet.kernel_profiles import PROFILES, profile_spec, reference_kernel
from lmaunet.net.checkpoint import save_checkpoint
from lmaunet.net.elastic import use_kernel
from lmaunet.quant.bits import resolve_bits
from lmaunet.quant.calibration import calibrate, check_images, choose_slices, notices, spread
from lmaunet.quant.elastic import ElasticQuant, extract
from lmaunet.quant.network import QuantNetwork, check_quantizable, count_weight_bits, graph_of
from lmaunet.quant.qat import SCAN_IMAGES, described, evaluate, notes_for
from lmaunet.quant.scan_formats import SiteFormats, choose_for_network, write_formats
from lmaunet.quant.settings import QatSettings
from lmaunet.sources.checkpoint import save_network
from lmaunet.spec import NetSpec
from lmaunet.stage import write_json
from lmaunet.train.elastic import sampled
from lmaunet.train.loop import Teacher, fit
from lmaunet.train.processes import Processes
from lmaunet.train.schedule import Progress, Schedule, part


def check_settings(settings: QatSettings) -> None:
    """Raise :class:`UserError` for what can't be asked of an elastic network."""
    asked = {
        "--budget-mb": settings.budget_bytes is not None,
        "--explain": settings.explain,
        "--norm batch": settings.norm != "keep",
        f"--joins {settings.joins}": settings.joins not in ("", "shared"),
        "--dropout": settings.dropout > 0,
        "--max-drop": settings.max_drop is not None,
        "--drop-modality": bool(settings.schedule.drop_modality),
    }
    for option, given in asked.items():
        if given:
            raise UserError(
                f"{option} is for a network of one kernel: the kernels of an elastic one share "
                "their weights' bits and scales; leave it out"
            )


def train_elastic_control(
    model: nn.Module, spec: NetSpec, data: Mapping[int, Dataset], schedule: Schedule, *,
    seed: int, folder: Path, processes: Processes, progress: Progress,
) -> None:  # fmt: skip
    """Train the float network the same extra steps as QAT will; arguments as below.

    Writes what :func:`lmaunet.quant.qat.train_control` does, of the reference kernel, and
    ``control.pt`` of each other kernel into its folder.
    """
    reference = reference_kernel(spec.elastic)
    control = copy.deepcopy(model)
    sets = {kernel: of_kernel.train for kernel, of_kernel in data.items()}
    history = fit(
        control, sets[reference], schedule, classes=spec.classes, seed=seed, folder=folder,
        name="control", processes=processes, progress=progress,
        draw=sampled(sets, lambda k: use_kernel(control, k), schedule, seed, processes),
    )  # fmt: skip
    scores: dict[str, Any] = {}
    of_kernels: dict[str, dict[str, Any]] = {}
    for name, network in (("float32", model), ("control", control)):
        for kernel, of_kernel in data.items():
            fixed = extract(network, spec, kernel)
            found = evaluate(fixed, of_kernel)
            of_kernels.setdefault(str(kernel), {})[name] = found.to_json()
            if kernel == reference:
                scores[name] = found.to_json()
            path = profile_folder(folder, kernel, reference)
            save_network(path / f"{name}.pt", profile_spec(spec, kernel), fixed, dice=found.dice,
                         **notes_for(of_kernel))  # fmt: skip
    write_json(
        folder / "control.json", {"scores": scores, "kernels": of_kernels, "history": history}
    )
    (folder / "control.last.pt").unlink()


def quantize_elastic(
    model: nn.Module, spec: NetSpec, data: Mapping[int, Dataset], settings: QatSettings, *,
    seed: int, folder: Path, processes: Processes, progress: Progress,
) -> None:  # fmt: skip
    """Quantize every kernel of a trained elastic network, train it so, and write the results.

    Writes what :func:`lmaunet.quant.qat.quantize` does, of the reference kernel, and of each other
    kernel ``model.pt`` and ``scan.json`` into its folder.

    Args:
        model: the trained elastic network.
        spec: what it is.
        data: by kernel the slices in that kernel's size.
        settings, seed, folder, processes, progress: as for :func:`lmaunet.quant.qat.quantize`.

    Raises:
        UserError: as that does, and for settings that an elastic network can't have.
    """
    check_settings(settings)
    reference = reference_kernel(spec.elastic)
    networks: dict[int, QuantNetwork] = {}
    graphs, chosen, noticed = {}, {}, []
    for kernel, of_kernel in data.items():
        chosen[kernel] = choose_slices(of_kernel)
        images = of_kernel.train.images[chosen[kernel]]
        check_images(images)
        graph, weights = graph_of(extract(model, spec, kernel), images.shape)
        check_quantizable(graph)
        graphs[kernel] = graph
        networks[kernel] = QuantNetwork(
            graph, weights, resolve_bits(graph, settings.bits), scales=settings.scales,
            keep_norms=settings.keep_norms,
        )  # fmt: skip
        if kernel == reference:
            noticed = notices(graph, weights, of_kernel, chosen[kernel])
    quantized = ElasticQuant(networks, reference)
    ptq, qat = {}, {}
    for kernel, network in networks.items():
        progress(0.2, f"calibrating kernel {kernel}")
        calibrate(network, data[kernel].train.images[chosen[kernel]])
        progress(0.22, f"scoring PTQ of kernel {kernel} on held-out slices")
        ptq[kernel] = evaluate(network, data[kernel]).to_json()
    teacher = None
    if settings.distillation:
        teacher = Teacher(copy.deepcopy(model).to(processes.device), settings.distillation)

    def use(kernel: int) -> None:
        quantized.kernel = kernel
        if teacher is not None:
            use_kernel(teacher.network, kernel)

    sets = {kernel: of_kernel.train for kernel, of_kernel in data.items()}
    history = fit(
        quantized, sets[reference], settings.schedule, classes=spec.classes, seed=seed,
        folder=folder, name="QAT", processes=processes, progress=part(progress, 0.25, 0.65),
        teacher=teacher, draw=sampled(sets, use, settings.schedule, seed, processes),
    )  # fmt: skip
    quantized.fold_norms()
    for kernel, network in networks.items():
        path = profile_folder(folder, kernel, reference)
        progress(0.9, f"scoring QAT of kernel {kernel} on held-out slices")
        after = evaluate(network, data[kernel])
        qat[kernel] = after.to_json()
        images = data[kernel].train.images[chosen[kernel]]
        formats: list[SiteFormats] = []
        try:
            formats = choose_for_network(network, spread(images, SCAN_IMAGES))
        except UserError as error:
            noticed.append(
                f"kernel {kernel}: no number formats were chosen for the scans in integers: {error}"
            )
        write_formats(path / "scan.json", formats)
        save_checkpoint(
            path / "model.pt", profile_spec(spec, kernel), network, kind="quantized",
            graph=topology_json(graphs[kernel]), dice=after.dice, bits=network.bits,
            scales=network.scales, separate=[], norm=settings.norm, **notes_for(data[kernel]),
        )  # fmt: skip
    counts = count_weight_bits(graphs[reference], networks[reference].bits)
    write_json(folder / "joins.json", [])
    write_json(
        folder / "qat.json",
        {
            "scores": {"ptq": ptq[reference], "qat": qat[reference]},
            "kernels": {str(k): {"ptq": ptq[k], "qat": qat[k]} for k in networks},
            "network": described(graphs[reference]),
            "weight_bits": {str(k): v for k, v in sorted(counts.items())},
            "joins": [],
            "notices": noticed,
            "history": history,
            "calibration_slices": [int(i) for i in chosen[reference]],
        },
    )
    (folder / "QAT.last.pt").unlink()


def profile_folder(folder: Path, kernel: int, reference: int) -> Path:
    """Return a kernel's folder in that of a stage, made where it lacks; the reference's is that."""
    path = folder if kernel == reference else folder / PROFILES / str(kernel)
    path.mkdir(parents=True, exist_ok=True)
    return path
