"""What ``spec NAME`` says: counts that follow from the layers, and the article's beside them."""

import pytest

from lmaunet.deploy.describe import compare_with_article, count_macs, describe
from lmaunet.net.network import LMaUNet
from lmaunet.spec import named_spec


def test_parameters_and_bytes_are_those_of_the_network():
    content, lines = describe("demo")
    params = sum(p.numel() for p in LMaUNet(named_spec("demo")).parameters())
    assert content["params"] == content["bytes_int8"] == params
    assert content["bytes_fp32"] == 4 * params
    assert sum(part["params"] for part in content["parts"].values()) == params
    (line,) = [line for line in lines if line.startswith("parameters")]
    assert line == (
        f"parameters  {params:,}  ({4 * params / 1e6:.2f} MB in FP32, {params / 1e6:.2f} MB in "
        "INT8)"
    )
    assert content["macs_at_input"] == sum(part["macs"] for part in content["parts"].values())
    assert "article" not in content and not any("article" in line for line in lines)


def test_macs_grow_with_the_image():
    spec = named_spec("demo")
    small, large = count_macs(spec, 64, 96), count_macs(spec, 128, 192)
    # all but the sums over the whole image, which are few, grow with the pixels
    assert 3.9 < large / small <= 4
    assert count_macs(spec, 64, 96) == count_macs(spec, 96, 64)


def test_the_articles_figures_stand_beside_ours():
    content, lines = describe("base")
    found = compare_with_article(11_312_000, {"256": 91_000_000_000, "512": 364_000_000_000})
    assert found["readings_g"] == pytest.approx(
        {"1 x MAC at 256": 91, "2 x MAC at 256": 182, "1 x MAC at 512": 364,
         "2 x MAC at 512": 728}, rel=1e-12
    )  # fmt: skip
    assert found["nearest"] == "2 x MAC at 256"
    assert found["relative"] == pytest.approx(182 / 182.3 - 1)
    text = " ".join(found["lines"])
    assert "11.2 M parameters (here +1.00%)" in text and "182.0 G (-0.2%)" in text
    assert content["article"]["lines"] == lines[-2:]
    assert abs(content["params"] / 11.2e6 - 1) < 0.01
