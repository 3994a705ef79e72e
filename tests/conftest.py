"""What several tests share: a tiny network, its data, and skips that say why."""

from __future__ import annotations

import os
import shutil
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"  # there is a worker for each core already
else:
    os.environ.setdefault("OMP_NUM_THREADS", "2")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        # the marker, not a keyword: that may be the name of the folder of the checkout
        if item.get_closest_marker("vivado") and not shutil.which("vivado"):
            item.add_marker(pytest.mark.skip(reason="needs AMD Vivado on the PATH"))
        if item.get_closest_marker("gpu") and not Path("/dev/nvidia0").exists():
            item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU; there is none here"))


@pytest.fixture
def mutant_of(tmp_path, monkeypatch):
    """A function that returns a module with one place of its source changed."""

    def make(module, right, wrong):
        source = Path(module.__file__).read_text(encoding="utf-8")
        assert source.count(right) == 1
        path = tmp_path / "mutant.py"
        path.write_text(source.replace(right, wrong), encoding="utf-8")
        spec = spec_from_file_location(path.stem, path)
        mutant = module_from_spec(spec)
        monkeypatch.setitem(sys.modules, path.stem, mutant)  # dataclasses look it up there
        spec.loader.exec_module(mutant)
        return mutant

    return make


@pytest.fixture(scope="session")
def tiny_spec():
    from lmaunet.spec import NetSpec

    return NetSpec(
        "tiny", (4, 8, 8, 8, 8), states=2, kernels=(3, 3, 3, 3), input_size=(32, 32), classes=9
    )


@pytest.fixture(scope="session")
def tiny_data(tiny_spec):
    from lmaunet.data.loaders import load_phantom

    return load_phantom(size=tiny_spec.input_size, seed=0)


@pytest.fixture(scope="session")
def tiny_model(tiny_spec, tiny_data):
    """A network trained for a few steps, so that its norms and activations are not trivial."""
    import torch

    from lmaunet.net.network import LMaUNet
    from lmaunet.train.loop import Schedule, fit
    from lmaunet.train.processes import join_processes

    torch.manual_seed(0)
    model = LMaUNet(tiny_spec)
    fit(
        model, tiny_data.train, Schedule(2, 1e-2), classes=9, seed=0, folder=None,
        processes=join_processes(), progress=lambda fraction, line: None,
    )  # fmt: skip
    return model.eval()


@pytest.fixture(scope="session")
def tiny_quantized(tiny_model, tiny_data):
    from lmaunet.quant.calibration import calibrate
    from lmaunet.quant.network import QuantNetwork

    quantized = QuantNetwork.from_module(tiny_model, tiny_data.train.images.shape)
    calibrate(quantized, tiny_data.train.images[:16])
    return quantized.eval()
