"""What ``spec NAME`` says: counts that follow from the layers, and the article's beside them."""

from types import SimpleNamespace

import pytest

from lmaunet.deploy import describe as describe_module
from lmaunet.deploy.describe import compare_with_article, count_macs, describe
from lmaunet.net.network import LMaUNet
from lmaunet.spec import named_spec


def test_parameters_and_bytes_are_those_of_the_network():
    content, lines = describe("demo")
    params = sum(p.numel() for p in LMaUNet(named_spec("demo")).parameters())
    assert content["params"] == content["bytes_int8"] == params
    assert content["bytes_fp32"] == 4 * params
    assert sum(part["params"] for part in content["parts"].values()) == params
    assert list(content["parts"]) == [
        "shallow.0", "shallow.1", *(f"stages.{i}" for i in range(4)), "pyramid",
        *(f"decoder.{i}" for i in range(4)), "head",
    ]  # fmt: skip
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


@pytest.mark.parametrize(
    ("name", "params", "operations"),
    [("unet", 7.8, 145.2), ("unet-large-kernel", 12.4, 210.7), ("unet-mamba", 9.1, 168.5)],
)
def test_a_network_of_the_articles_ablation_stands_beside_its_own_figures(name, params, operations):
    found = compare_with_article(int(params * 1.005e6), {"512": int(operations * 0.501e9)}, name)
    assert found["nearest"] == "2 x MAC at 512" and found["relative"] == pytest.approx(0.002)
    text = " ".join(found["lines"])
    assert f"{params} M parameters (here +0.50%) and {operations} G" in text and "(+0.2%)" in text


def test_what_a_network_without_mamba_has_in_its_place():
    assert ", block=convs, skip=" in describe("unet")[1][0]
    assert ", N=16, expand=2, skip=" in describe("unet-mamba")[1][0]


@pytest.mark.parametrize("name", ["demo", "edge", "base"])
def test_the_lines_say_what_the_record_says(name):
    content, lines = describe(name)
    spec = named_spec(name)
    height, width = spec.input_size
    assert lines[0] == (
        f"{name}: widths {spec.widths}, strides {spec.strides}, kernels {spec.kernels}, "
        f"N={spec.states}, expand={spec.expand}, skip={spec.skip}, pyramid={spec.pyramid}"
    )
    assert lines[2].split() == ["part", "params", "%", "MMAC", "at", f"{height}x{width}"]
    rows = {line.split()[0]: line.split()[1:] for line in lines[4 : 4 + len(content["parts"])]}
    assert rows == {
        part: [f"{v['params']:,}", f"{100 * v['params'] / content['params']:.1f}",
               f"{v['macs'] / 1e6:,.1f}"]
        for part, v in content["parts"].items()
    }  # fmt: skip
    assert sum(float(row[1]) for row in rows.values()) == pytest.approx(100, abs=0.5)
    macs = {size: count_macs(spec, size, size) for size in (512, 256)}
    assert content["macs"] == {str(size): count for size, count in macs.items()}
    assert [line for line in lines if line.startswith("MACs at")] == [
        f"MACs at {size}  {count / 1e9:.2f} G" for size, count in macs.items()
    ]
    assert content["input"] == [1, spec.in_channels, height, width]
    assert content["spec"] == spec.to_json()


@pytest.mark.parametrize(
    ("params", "macs", "giga", "said"),
    [
        # a million and one, or less one, would be said as another size
        (9_995_001, 99_950_001, 9_995_000_001, ("39.98", "10.00", "100.0", "10.00")),
        (9_994_995, 99_949_995, 9_994_999_995, ("39.98", "9.99", "99.9", "9.99")),
        (9_998_751, 0, 0, ("40.00", "10.00", "0.0", "0.00")),
        (9_998_749, 0, 0, ("39.99", "10.00", "0.0", "0.00")),
    ],
)
def test_mega_and_giga_are_millions_and_milliards(monkeypatch, params, macs, giga, said):
    """Of a network of one part."""
    made = {(512, 512): giga, (256, 256): 0}

    def layers(spec):
        count = made.get(spec.input_size, macs)
        return [SimpleNamespace(name="body.0.conv", params=params, macs=count)]

    monkeypatch.setattr(describe_module, "layers_of", layers)
    _, lines = describe("demo")
    fp32, int8, mega, macs_said = said
    assert f"({fp32} MB in FP32, {int8} MB in INT8)" in lines[-3]
    assert lines[4].split() == ["body.0", f"{params:,}", "100.0", mega]
    assert lines[-2:] == [f"MACs at 512  {macs_said} G", "MACs at 256  0.00 G"]
