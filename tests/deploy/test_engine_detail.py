from lmaunet.deploy.detail import detail_lines

PARTS = {
    "plan": 12_110_000, "constants": 200_000, "kernels": 11_450_000, "kernel_count": 71,
    "rest": 460_000, "packed": 220_000,
}  # fmt: skip
UNAVAILABLE = {"unavailable": {"tool": "a CUDA GPU", "why": "none", "fix": "buy one"}}


def lines(detail):
    return dict(detail_lines({"detail": detail, "latency_ms": UNAVAILABLE}))


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
