import xml.etree.ElementTree as ElementTree

import pytest

from lmaunet.deploy.allocation_plot import COLOURS, draw_allocation
from lmaunet.deploy.quantizing import QatOptions, _allocation, _explained
from lmaunet.errors import UserError
from lmaunet.spec import SPECS

SVG = "{http://www.w3.org/2000/svg}"


def allocation(**changes):
    layers = [
        {
            "layer": name,
            "weights": 1000,
            "bits": bits,
            "bytes": 125 * bits,
            "sensitivity": {"2": 1e-2, "3": 1e-3, "4": 1e-4, "8": 0.0},
        }
        for name, bits in (("shallow.0", 8), ("lkm1.proj", 4), ("pyramid.out", 3), ("deep.up", 2))
    ]
    return {
        "budget_bytes": 5_000, "file_bytes": 4_900, "weight_bytes": 2_125, "rest_bytes": 2_775,
        "lkm_int8": False, "layers": layers, "notices": [], **changes,
    }  # fmt: skip


def test_the_plot_has_a_bar_and_dots_for_every_layer():
    root = ElementTree.fromstring(
        draw_allocation(allocation(budget_bytes=4_200_000, file_bytes=1_234_499))
    )
    rows = [group for group in root.iter(f"{SVG}g") if group.find(f"{SVG}circle") is not None]
    assert len(rows) == 4
    bars = [row.find(f"{SVG}rect") for row in rows]
    assert [bar.get("fill") for bar in bars] == [COLOURS[b] for b in (8, 4, 3, 2)]
    widths = [float(bar.get("width")) for bar in bars]
    assert widths == sorted(widths, reverse=True) and widths[3] == pytest.approx(widths[0] / 4)
    # the filled dot of the layer with 2 bits lies right of that with 4: it is more sensitive
    filled = [float(row.findall(f"{SVG}circle")[-1].get("cx")) for row in rows]
    assert filled[3] > filled[2] > filled[1] >= filled[0]
    # and beside it an open one for each number of bits that the layer did not get
    assert [len(row.findall(f"{SVG}circle")) for row in rows] == [4] * 4
    for row in rows:  # no error at all lies where the scale begins, with that of 4 bits
        assert len({dot.get("cx") for dot in row.findall(f"{SVG}circle")}) == 3
    words = " ".join(text.text for text in root.iter(f"{SVG}text"))
    assert "1.234 MB" in words and "4.2 MB" in words
    width = float(root.get("width"))
    assert all(0 < x < width for x in filled)


def test_a_size_is_shown_to_the_nearest_kilobyte():
    for size, text in ((1_234_499, "1.234 MB"), (1_234_501, "1.235 MB")):
        assert text in draw_allocation(allocation(file_bytes=size))


def test_the_plot_of_a_network_that_does_not_mind_rounding():
    content = allocation()
    for row in content["layers"]:
        row["sensitivity"] = dict.fromkeys(row["sensitivity"], 0.0)
    ElementTree.fromstring(draw_allocation(content))


def test_the_table_says_bits_bytes_and_the_sum():
    lines = _allocation(allocation())
    assert any(line.startswith("pyramid.out") and "375" in line for line in lines)
    assert lines[-2] == "weights 2,125 + rest 2,775 = file 4,900 bytes of 5,000"
    assert "model.onnx alone" in lines[-1] and "library of operators" in lines[-1]


def test_the_costliest_quantizers_come_first_and_the_sum_on_top():
    rows = [
        {"quantizer": f"q{i}", "kind": "weights", "divergence": 1 / (i + 1),
         "foreground_changed": 0.01}
        for i in range(30)
    ]  # fmt: skip
    total = {**rows[0], "quantizer": "all", "kind": "all", "divergence": 3.0}
    lines = _explained([*rows, total])
    assert lines[3].startswith("all") and lines[4].startswith("q0 ")
    assert len(lines) == 3 + 1 + 15


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"budget_mb": 0.0}, "--budget-mb 0; give a positive size"),
        ({"budget_mb": -1.0}, "--budget-mb -1"),
        ({"budget_mb": float("nan")}, "--budget-mb nan"),
        ({"budget_mb": float("inf")}, "--budget-mb inf"),
        ({"budget_mb": 1e-9}, "--budget-mb 1e-09; give a positive size"),
        ({"budget_mb": 1e9}, "less than 1,000,000 MB, such as 4.2"),
        ({"bits": ""}, "cannot read ''"),
        ({"budget_mb": 4.2, "bits": "4"}, "exclude each other"),
        ({"scales": "log"}, "scales 'log'; use one of: free, pow2"),
        ({"distillation": -1.0}, "distillation -1.0"),
        ({"bits": "7"}, "cannot read '7'"),
    ],
)
def test_options_that_cannot_be(options, text):
    with pytest.raises(UserError) as raised:
        QatOptions(**options).settings(SPECS["edge"])
    assert text in str(raised.value)


def test_the_budget_is_in_millions_of_bytes():
    assert QatOptions(budget_mb=4.2).settings(SPECS["edge"]).budget_bytes == 4_200_000
