import pytest

from lmaunet.deploy import detail
from lmaunet.deploy.detail import detail_lines
from lmaunet.deploy.targets import all_targets

PARTS = {
    "plan": 12_110_000, "constants": 200_000, "kernels": 11_450_000, "kernel_count": 71,
    "rest": 460_000, "packed": 220_000,
}  # fmt: skip
UNAVAILABLE = {"unavailable": {"tool": "a CUDA GPU", "why": "none", "fix": "buy one"}}


def all_lines(detail, latency):
    """Yield what is shown of any target, and what each target shows of its own."""
    yield from detail_lines({"detail": detail, "latency_ms": latency})
    for target in all_targets().values():
        yield from target.detail_lines(detail)


def lines(detail):
    return dict(all_lines(detail, UNAVAILABLE))


def test_the_report_says_what_an_engine_unpacks_to():
    detail = {"bytes": PARTS, "weight_only_convolutions": {"int8": 8, "quantized": 8}}
    assert lines(detail) == {
        "Convolutions with INT8 weights only": "8 of 8",
        "Engine, unpacked": "12.11 MB: 0.20 constants, 11.45 source of 71 generated kernels, "
        "0.46 the rest",
    }


def test_what_is_missing_is_not_shown():
    assert lines({"bytes": {**PARTS, "kernels": None}}) == {}
    assert lines({"bytes": 3, "weight_only_convolutions": {"int8": 0, "quantized": 0}}) == {}


LATENCY = {
    "cpu": "a CPU", "threads": 3, "min_ms": 4.04, "p90_ms": 5.06, "runs": 17, "load_average": 0.7,
    "spread": 1.2524, "unsteady": True,
}  # fmt: skip


def shown(detail, **latency):
    measured = {"value": 4.5, "unit": "ms", "provenance": "simulated"} | latency
    found = dict(all_lines(detail, measured)).items()
    return {
        label: value if isinstance(value, str) else
        (value.number, value.unit, value.provenance, value.mark)
        for label, value in found
    }  # fmt: skip


def test_a_latency_is_shown_with_its_conditions():
    found = shown({"latency": LATENCY})
    assert found.pop("90th percentile to minimum").startswith("1.25, above 1.2: UNSTEADY, somethi")
    assert found == {
        "CPU": "a CPU", "Threads": "3",
        "Latency, minimum": ("4.04", "ms", "simulated", ""),
        "Latency, 90th percentile": ("5.06", "ms", "simulated", ""),
        "Timed": "17 runs, load average 0.7",
    }  # fmt: skip
    calm = shown({"latency": LATENCY | {"spread": 1.1, "unsteady": False, "load_average": None}})
    assert calm["90th percentile to minimum"] == "1.10" and calm["Timed"] == "17 runs"
    # without a figure nothing is said of its spread
    assert lines({"latency": LATENCY}) == {"CPU": "a CPU", "Threads": "3"}


def test_fp32_in_the_same_turns_is_shown_where_all_of_it_is_known():
    beside = {"form": "FP32", "median_ms": 20.25, "size_mb": 1.37, "speed_up": 4.126,
              "compression": 3.96, "unsteady": True}  # fmt: skip
    assert shown({"float32": beside}) == {
        "FP32, in the same turns": ("20.25", "ms", "measured", "unsteady"),
        "Size of all that ships in FP32": ("1.37", "MB", "measured", ""),
        "Against FP32": "4.13 times as fast, 4.0 times as small",
    }
    assert shown({"float32": beside | {"unsteady": False}})["FP32, in the same turns"][3] == ""
    for key in beside.keys() - {"unsteady"}:
        assert shown({"float32": beside | {key: None}}) == {}, key


def test_packed_weights_are_shown_where_they_are_smaller():
    packing = {"packed_bytes": 1_234_499, "unpacked_bytes": 2_345_499}
    assert shown({"packing": packing, "load": {"packed_ms": 7.4, "load_ms": 9}}) == {
        "Weights": "1.234 MB packed, 2.345 MB as INT8",
        "Load time": ("7", "ms", "measured", ""),
    }
    more = {"packed_bytes": 1_234_501, "unpacked_bytes": 2_345_501}
    assert shown({"packing": more}) == {"Weights": "1.235 MB packed, 2.346 MB as INT8"}
    assert shown({"packing": packing | {"packed_bytes": 2_345_499}}) == {}
    assert shown({"packing": packing | {"packed_bytes": None}, "load": {"load_ms": 9.6}}) == {
        "Load time": ("10", "ms", "measured", "")
    }


def test_what_a_design_and_an_engine_say_of_themselves():
    detail = {
        "board": "ZCU104", "clock_mhz": 250.0, "clock_status": "assumed", "interval_ms": 3.24,
        "interval_ms_provenance": "simulated", "limits": "DSPs", "library": "v1",
        "lowering": "unrolled", "sms": ["80", "SM86"], "precisions": {"INT8": 45, "FP32": 2},
        "convolutions": {"integer_kernels": 12, "float_kernels": 1},
        "int8_convolutions": {"dense": {"int8": 9, "quantized": 10}, "depthwise": {"int8": 1,
                                                                                  "quantized": 2}},
    }  # fmt: skip
    assert shown(detail) == {
        "Board": "ZCU104", "Clock": "250 MHz, assumed", "What limits it": "DSPs", "Library": "v1",
        "Between two images": ("3.24", "ms", "simulated", ""), "Scan lowering": "unrolled",
        "Built for": "SM80, SM86", "Layers by precision": "45 INT8, 2 FP32",
        "Convolutions": "12 in integer kernels, 1 in float",
        "INT8 convolutions, dense": "9 of 10", "INT8 convolutions, depthwise": "1 of 2",
    }  # fmt: skip
    assert shown({"int8_convolutions": {"int8": 3, "quantized": 4}}) == {
        "INT8 convolutions": "3 of 4"
    }
    assert shown({"clock_mhz": 100}) == {"Clock": "100 MHz"}
    # what is not said counts as estimated
    assert shown({"interval_ms": 3.24})["Between two images"] == ("3.24", "ms", "estimated", "")


@pytest.mark.parametrize(
    ("values", "all_count"),
    [((1, 0.5), True), ((), True), ((0,), False), ((-1,), False), ((True,), False),
     (("3",), False), ((None,), False), ((3, 0.0), False), ((1e-9,), True)],
)  # fmt: skip
def test_what_counts_is_a_number_above_0(values, all_count):
    assert detail.counts(*values) == all_count


@pytest.mark.parametrize(
    ("sizes", "text"),
    [
        # a million and one would round these down, and a million less one those up
        (
            (12_115_001, 9_995_001, 11_455_001, 20_005_001),
            "12.12 MB: 10.00 constants, 11.46 |20.01",
        ),
        ((12_114_995, 9_994_995, 11_454_995, 20_004_995), "12.11 MB: 9.99 constants, 11.45 |20.00"),
    ],
)
def test_megabytes_are_millions_of_bytes(sizes, text):
    parts = dict(zip(("plan", "constants", "kernels", "rest"), sizes, strict=True))
    text = text.replace("|", "source of 71 generated kernels, ")
    assert lines({"bytes": {**parts, "kernel_count": 71}}) == {
        "Engine, unpacked": f"{text} the rest"
    }


def test_an_engine_s_layers_are_counted_by_precision_with_their_norms():
    rows = {"INT8": {"layers": 14, "norms": 0}, "FP32": {"layers": 17, "norms": 6}}
    found = {"by_precision": rows, "norms_in_the_network": 6}
    assert lines({"layer_precisions": found}) == {
        "Layers of the engine": "14 INT8, 17 FP32 (6 with a norm)"
    }
    for other in ({}, {"by_precision": {}}, {"by_precision": {"INT8": {"layers": 1}}}, 3):
        assert lines({"layer_precisions": other}) == {}


def test_products_that_stay_float_in_half_are_named():
    rows = [{"node": f"/c{i}", "input": 1.0, "sums": 3e4} for i in range(5)]
    found = {"images": 32, "margin": 4.0, "products": 9, "in_fp32": rows[:2]}
    assert lines({"half_range": found}) == {
        "FP16 range, 32 training images": "2 of 9 products stay FP32, their values come near "
        "65504: /c0, /c1"
    }
    said = lines({"half_range": found | {"in_fp32": rows}})["FP16 range, 32 training images"]
    assert said.endswith("5 of 9 products stay FP32, their values come near 65504: /c0, /c1, /c2 "
                         "and 2 more")  # fmt: skip
    assert lines({"half_range": found | {"in_fp32": []}}) == {
        "FP16 range, 32 training images": "all 9 products fit"
    }
    assert lines({"half_range": {"in_fp32": None}}) == lines({"half_range": 3}) == {}
