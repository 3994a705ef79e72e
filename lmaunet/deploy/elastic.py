"""What the stages do beside their work where the network is elastic: see ``kernel_profiles``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lmaunet.data.kept_patients import keep_patients
from lmaunet.deploy.controlled import add_held_out, control_of
from lmaunet.deploy.elastic_data import profile_data
from lmaunet.kernel_profiles import reference_kernel
from lmaunet.net.elastic import use_kernel
from lmaunet.quant import elastic_qat, qat
from lmaunet.spec import NetSpec
from lmaunet.train.elastic import Draw, sampled

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from lmaunet.data.dataset import Dataset
    from lmaunet.deploy.runs import DataSource
    from lmaunet.graph_spec import NetworkSpec
    from lmaunet.quant.settings import QatSettings
    from lmaunet.train.processes import Processes
    from lmaunet.train.schedule import Progress, Schedule


@dataclass(frozen=True)
class Elastic:
    """A float network's kernels with their data; of a network of fixed kernels it has none.

    Args:
        model: the network.
        data: by kernel the data set in that kernel's size.
    """

    model: nn.Module
    data: Mapping[int, Dataset]

    @staticmethod
    def of(model: nn.Module, spec: NetworkSpec, source: DataSource, reference: Dataset) -> Elastic:
        """Return what a network has, whose data in its own size are ``reference``."""
        if isinstance(spec, NetSpec) and spec.elastic:
            return Elastic(model, profile_data(source, spec, reference))
        return Elastic(model, {})

    def draw(self, schedule: Schedule, seed: int, processes: Processes) -> Draw | None:
        """Return what draws the batches of a training, None where they are the usual ones."""
        if not self.data:
            return None
        sets = {kernel: data.train for kernel, data in self.data.items()}
        return sampled(sets, lambda k: use_kernel(self.model, k), schedule, seed, processes)

    def scores(self) -> dict[str, Any]:
        """Return the scores of each kernel in its own size as ``{"kernels": ...}``, if any.

        The network is left at the reference kernel.
        """
        if not self.data:
            return {}
        found = {}
        for kernel, data in self.data.items():
            use_kernel(self.model, kernel)
            size = data.val.images.shape[2:]
            found[str(kernel)] = {
                "input_size": list(size), "scores": qat.evaluate(self.model, data).to_json()
            }  # fmt: skip
        self.rest()
        return {"kernels": found}

    def rest(self) -> None:
        """Have the network compute with the reference kernel."""
        if self.data:
            use_kernel(self.model, reference_kernel(tuple(self.data)))


def train_control(
    model: nn.Module, spec: NetworkSpec, source: DataSource, data: Dataset, schedule: Schedule, *,
    seed: int, folder: Path, processes: Processes, progress: Progress,
    asked: QatSettings | None = None,
) -> None:  # fmt: skip
    """Train the FP32 control of a network, elastic or not, whose data are ``data``.

    ``asked`` are the settings of a QAT with a limit, which measures against it: what that would
    refuse is refused now, and the patients on which it measures are kept from the training.
    """
    if asked is not None:
        if getattr(spec, "elastic", ()):
            elastic_qat.check_settings(asked)
        data = keep_patients(data).rest
        qat.prepare(model, data, asked)
    elastic = Elastic.of(model, spec, source, data)
    if not elastic.data:
        qat.train_control(
            model, spec, data, schedule, seed=seed, folder=folder, processes=processes,
            progress=progress,
        )  # fmt: skip
        return
    assert isinstance(spec, NetSpec)
    elastic_qat.train_elastic_control(
        model, spec, elastic.data, schedule, seed=seed, folder=folder, processes=processes,
        progress=progress,
    )  # fmt: skip


def quantize(
    model: nn.Module, spec: NetworkSpec, source: DataSource, data: Dataset, settings: QatSettings,
    *, seed: int, folder: Path, processes: Processes, progress: Progress,
    controlled: Path | None = None,
) -> None:  # fmt: skip
    """Quantize a network, elastic or not, whose data are ``data``.

    ``controlled`` is the folder of the FP32 control, which a limit is measured against.
    """
    from lmaunet.cpu.cpu_file import file_bytes

    if not getattr(spec, "elastic", ()):
        control, held_out = None, data
        if settings.max_drop is not None:
            assert controlled is not None
            kept = keep_patients(data)
            control, data = control_of(controlled, kept), kept.rest
        qat.quantize(
            model, spec, data, settings, seed=seed, folder=folder, processes=processes,
            progress=progress, file_bytes=lambda network: file_bytes(network, data.train.images),
            control=control,
        )  # fmt: skip
        if controlled is not None and control is not None and processes.first:
            add_held_out(folder, controlled, held_out)
        return
    assert isinstance(spec, NetSpec)
    elastic_qat.check_settings(settings)  # before the other sizes are loaded
    elastic_qat.quantize_elastic(
        model, spec, profile_data(source, spec, data), settings, seed=seed, folder=folder,
        processes=processes, progress=progress,
    )  # fmt: skip
