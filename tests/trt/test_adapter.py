from types import SimpleNamespace

import pytest

from lmaunet.errors import ToolNotFound, UserError
from lmaunet.trt import adapter, gpu


@pytest.mark.parametrize("sm", ["SM86", "86", "8.6", "sm_86", 86])
def test_spellings_of_a_compute_capability(sm):
    assert adapter.check_sms(adapter.RTX, [sm]) == ("SM86",)


def test_repeats_go():
    assert adapter.check_sms(adapter.RTX, ["SM86", "8.6", "SM120"]) == ("SM86", "SM120")


def test_unsupported_compute_capabilities():
    supported = "SM75, SM80, SM86, SM89, SM120, SM121"
    with pytest.raises(UserError) as error:
        adapter.check_sms(adapter.RTX, ["SM86", "SM90"])
    assert str(error.value) == (
        "SM SM90: TensorRT for RTX does not support SM90 (Hopper); use one or more of "
        f"{supported}, or the full TensorRT on a machine with that GPU"
    )
    with pytest.raises(UserError) as error:
        adapter.check_sms(adapter.RTX, ["SM42"])
    assert str(error.value) == f"SM SM42 is unknown to tensorrt_rtx; use one or more of {supported}"
    with pytest.raises(UserError, match="no SM was given; give one or more of SM75"):
        adapter.check_sms(adapter.RTX, [])


def test_the_full_library_builds_for_the_gpu_that_is_present(monkeypatch):
    monkeypatch.setattr(gpu, "probe_gpu", lambda: gpu.Gpu("Orin", "SM87"))
    assert adapter.check_sms(adapter.FULL, ["SM90"]) == ("SM87",)
    monkeypatch.setattr(gpu, "probe_gpu", lambda: gpu.NoGpu("no driver", "install one"))
    with pytest.raises(ToolNotFound) as error:
        adapter.check_sms(adapter.FULL, [])
    assert str(error.value).startswith(
        "a CUDA GPU is missing: it is needed because tensorrt builds only for the GPU that is "
        "present: no driver; python -m pip install tensorrt-rtx-cu13==1.7.1.116 "
        "'cuda-bindings>=13' for TensorRT for RTX, which builds"
    )


def test_sms_for_which_an_int8_engine_would_be_float():
    adapter.check_int8_sms(adapter.RTX, ["SM86", "SM120"])
    with pytest.raises(UserError) as error:
        adapter.check_int8_sms(adapter.RTX, ["SM86", "SM75"])
    assert str(error.value) == (
        "SM75: tensorrt_rtx multiplies no INT8 there, and one of them makes the engine float for "
        "every GPU; use one or more of SM80, SM86, SM89, SM120, SM121, or --precision fp16"
    )


class Config:
    """Keeps what it is told."""

    def __init__(self):
        self.cleared, self.set = [], {}

    def clear_flag(self, flag):
        self.cleared.append(flag)

    def set_compute_capability(self, sm, index):
        self.set[index] = sm


LIBRARY = SimpleNamespace(
    ProfilingVerbosity=SimpleNamespace(DETAILED="detailed"),
    BuilderFlag=SimpleNamespace(TF32="tf32"),
    ComputeCapability=SimpleNamespace(SM86="86", SM120="120"),
    NetworkDefinitionCreationFlag=SimpleNamespace(STRONGLY_TYPED=3),
)


@pytest.mark.parametrize("flavour", [adapter.RTX, adapter.FULL], ids=lambda f: f.module)
def test_the_builder_is_set_up_for_each_library(flavour):
    config = Config()
    flavour.configure(LIBRARY, config, ("SM86", "SM120"))
    assert config.profiling_verbosity == "detailed" and config.cleared == ["tf32"]
    named = flavour is adapter.RTX
    assert config.set == ({0: "86", 1: "120"} if named else {})
    assert getattr(config, "num_compute_capabilities", None) == (2 if named else None)
    assert flavour.network_flags(LIBRARY) == 8
    untyped = SimpleNamespace(NetworkDefinitionCreationFlag=SimpleNamespace())
    assert flavour.network_flags(untyped) == 0


def test_neither_library(monkeypatch):
    monkeypatch.setattr(adapter.importlib.util, "find_spec", lambda name: None)
    assert adapter.find() is None
    with pytest.raises(ToolNotFound) as error:
        adapter.require()
    assert str(error.value) == (
        "tensorrt-rtx is missing: it is needed to build a TensorRT engine; "
        "python -m pip install tensorrt-rtx-cu13==1.7.1.116 'cuda-bindings>=13'"
    )


def test_the_supported_list_is_the_librarys():
    trt = pytest.importorskip("tensorrt_rtx")
    known = {name for name in dir(trt.ComputeCapability) if name.startswith("SM")}
    assert known == set(adapter.RTX.sms)
