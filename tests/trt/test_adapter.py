import pytest

from lmaunet.errors import ToolNotFound, UserError
from trt import adapter


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


def test_the_full_library_builds_for_the_gpu_that_is_present():
    assert adapter.check_sms(adapter.FULL, ["SM90"]) == ()


def test_neither_library(monkeypatch):
    monkeypatch.setattr(adapter.importlib.util, "find_spec", lambda name: None)
    assert adapter.find() is None
    with pytest.raises(ToolNotFound) as error:
        adapter.require()
    assert str(error.value) == (
        "tensorrt-rtx is missing: it is needed to build a TensorRT engine; "
        "pip install 'lmaunet-deploy[trt]'"
    )


def test_the_supported_list_is_the_librarys():
    trt = pytest.importorskip("tensorrt_rtx")
    known = {name for name in dir(trt.ComputeCapability) if name.startswith("SM")}
    assert known == set(adapter.RTX.sms)
