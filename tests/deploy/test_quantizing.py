import contextlib
import xml.etree.ElementTree as ElementTree

import pytest

from lmaunet.deploy import controlled as deploy_controlled
from lmaunet.deploy import pipeline, quantizing
from lmaunet.deploy.allocation_plot import COLOURS, draw_allocation
from lmaunet.deploy.outcome import ORIGIN_FILE, Outcome
from lmaunet.deploy.quantizing import QatOptions, _allocation, _explained
from lmaunet.deploy.runs import DataSource
from lmaunet.errors import UserError
from lmaunet.stage import write_json

SVG = "{http://www.w3.org/2000/svg}"
PHANTOM = DataSource(None)


def allocation(**changes):
    layers = [
        {
            "layer": name,
            "weights": 1000,
            "bits": bits,
            "bytes": 125 * bits,
            "sensitivity": {"2": 1e-2, "3": 1e-3, "4": 1e-4, "8": 0.0},
        }
        for name, bits in (
            ("shallow.0.conv", 8),
            ("stages.0.proj", 4),
            ("pyramid.out.conv", 3),
            ("head", 2),
        )
    ]
    return {
        "budget_bytes": 5_000, "file_bytes": 4_900, "weight_bytes": 2_125, "rest_bytes": 2_775,
        "scans_int8": False, "layers": layers, "notices": [], **changes,
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
    for budget, text in ((1_234_566, "1.23457 MB"), (1_234_564, "1.23456 MB")):
        assert f"under {text}:" in draw_allocation(allocation(budget_bytes=budget))


def test_the_plot_of_a_network_that_does_not_mind_rounding():
    content = allocation()
    for row in content["layers"]:
        row["sensitivity"] = dict.fromkeys(row["sensitivity"], 0.0)
    root = ElementTree.fromstring(draw_allocation(content))
    ticks = [text.text for text in root.iter(f"{SVG}text") if text.text.startswith("1e")]
    assert ticks == [f"1e{e}" for e in range(-6, 1)]


def test_the_table_says_bits_bytes_and_the_sum():
    lines = _allocation(allocation())
    assert any(line.startswith("pyramid.out.conv") and "375" in line for line in lines)
    assert lines[1].split("  ")[-4:] == ["at 2 bits", "at 3 bits", "at 4 bits", "at 8 bits"]
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
        ({"max_drop": -0.1}, "--max-drop -0.1; give the points of Dice that may be lost, 0 to 100"),
        ({"max_drop": float("nan")}, "--max-drop nan"),
        ({"max_drop": float("inf")}, "--max-drop inf"),
        ({"max_drop": 100.5}, "--max-drop 100.5"),
    ],
)
def test_options_that_cannot_be(options, text):
    with pytest.raises(UserError) as raised:
        QatOptions(**options).settings()
    assert text in str(raised.value)


def test_the_budget_is_in_millions_of_bytes():
    assert QatOptions(budget_mb=4.2).settings().budget_bytes == 4_200_000


@pytest.mark.parametrize(
    ("megabytes", "bytes_"), [(1e-6, 1), (4.2, 4_200_000), (999_999.5, 999_999_500_000)]
)
def test_a_budget_reaches_from_a_byte_to_a_terabyte(megabytes, bytes_):
    assert QatOptions(budget_mb=megabytes).settings().budget_bytes == bytes_
    for beyond in (0.99e-6, 1e6):
        with pytest.raises(UserError, match="give a positive size of a byte"):
            QatOptions(budget_mb=beyond).settings()


def test_every_option_is_a_setting_of_the_training():
    options = QatOptions(6, 0.25, 3, 9, "4", None, "pow2", 0.5, False, True, "ema")
    found = options.settings()
    schedule = found.schedule
    assert (schedule.epochs, schedule.learning_rate, schedule.batch_size) == (6, 0.25, 3)
    assert found.bits == (("*", 4),) and found.budget_bytes is None
    assert (found.scales, found.distillation, found.keep_norms, found.explain) == (
        "pow2", 0.5, False, True,
    )  # fmt: skip
    assert QatOptions().settings().bits == ()
    assert QatOptions(bits="3x3=4, a*=2").settings().bits == (("3x3", 4), ("a*", 2))


@pytest.fixture
def quantized(monkeypatch, tmp_path):
    """A function that runs the command on stages that are there, and what they were given."""
    monkeypatch.chdir(tmp_path)
    checkpoint = tmp_path / "c.pt"
    checkpoint.write_text("1")
    scores = {"ptq": {"dice": 0.3}, "qat": {"dice": None}}
    (tmp_path / "q").mkdir()
    (tmp_path / "k").mkdir()
    write_json(
        tmp_path / "q" / "qat.json", {"scores": scores, "notices": ["few slices"], "joins": []}
    )
    write_json(tmp_path / "q" / ORIGIN_FILE, {"line": "is ours", "notes": ["no classes"]})
    write_json(tmp_path / "q" / "allocation.json", allocation())
    row = {"quantizer": "q0", "kind": "weights", "divergence": 0.5, "foreground_changed": 0.25}
    write_json(tmp_path / "q" / "explain.json", [row, {**row, "quantizer": "all"}])
    write_json(tmp_path / "k" / "control.json",
               {"scores": {"control": {"dice": 0.5}, "float32": {"dice": 0.625}}})  # fmt: skip
    given, said = [], []

    @contextlib.contextmanager
    def bar(title):
        yield lambda fraction, line: said.append((fraction, line))

    def stage(name, cached):
        def work(*arguments):
            given.append((name, arguments))
            arguments[5](0.0, name)
            arguments[5](1.0, name)
            return Outcome(tmp_path / name, cached)

        return work

    monkeypatch.setattr(quantizing, "progress_bar", bar)

    def run(cached=False, source=PHANTOM, **options):
        monkeypatch.setattr(pipeline, "qat", stage("q", cached))
        monkeypatch.setattr(pipeline, "control", stage("k", False))
        return (
            quantizing.qat(tmp_path, checkpoint, source, None, QatOptions(**options)),
            given,
            said,
        )

    return run


def test_the_control_has_the_same_schedule_data_and_seed(quantized, tmp_path):
    _, given, said = quantized(seed=9, epochs=3, weights="ema")
    (first, ours), (second, theirs) = given
    assert (first, second) == ("q", "k")
    assert ours[:3] == theirs[:3] == (tmp_path, tmp_path / "c.pt", DataSource(None))
    assert ours[3].schedule == theirs[3] and theirs[3].epochs == 3
    assert ours[4] == theirs[4] == 9 and ours[6:] == theirs[6:] == (None, "ema")
    assert said == [(0.0, "q"), (0.65, "q"), (0.65, "k"), (1.0, "k")]


def controlled(state="passed", held="passed", drops=(1.5, 0.25)):
    """The record of a search, whose network lost ``drops`` round by round."""
    rounds = [
        {"bits": {"a": 4 + 4 * index, "b": 4}, "weight_bytes": 2000 + 500 * index,
         "drop_points": drop, "state": "failed", "per_case": {}}
        for index, drop in enumerate(drops)
    ]  # fmt: skip
    left = {
        "round": len(rounds),
        "float_weights_points": 1.25,
        "float_activations_points": -0.5,
        "activations": [{"activation": "x", "gain": 0.1}, {"activation": "y", "gain": -0.1}],
    }
    return {
        "limit_points": 0.3, "state": state, "patients": [f"p{n}" for n in range(6)], "best": 1,
        "rounds": rounds, "why": "every layer has 8 bits", "left": left,
        "held_out": {"patients": 9, "state": held, "reference": "control", "drop_points": 0.42,
                     "interval": {"low": -0.1, "high": 0.9}},
    }  # fmt: skip


def check_status(module):
    """The status is 1 as soon as the limit fails on either side; what is not scored fails none."""
    for state, held, status in (
        ("passed", "passed", 0), ("passed", "open", 0), ("failed", "passed", 1),
        ("passed", "failed", 1), ("failed", "failed", 1), ("failed", "open", 1),
    ):  # fmt: skip
        assert module.status_of(controlled(state, held)) == status


def test_a_limit_that_is_not_kept_is_no_success(mutant_of):
    check_status(deploy_controlled)
    right = 'FAILED in (content["state"], content["held_out"]["state"])'
    for side in ('content["state"]', 'content["held_out"]["state"]'):
        with pytest.raises(AssertionError):
            check_status(mutant_of(deploy_controlled, right, f"FAILED in ({side},)"))


def test_what_a_search_came_to_is_said_in_two_lines():
    assert deploy_controlled.lines_of(controlled()) == [
        "accuracy control: drop of at most 0.3 points KEPT on 6 training patients kept for it: "
        "+1.50 -> +0.25 in 2 training(s); weight 2,000 -> 2,500 bytes, 1 layer(s) more bits",
        "9 held-out patients, which had no part in it: +0.42 points against the FP32 control "
        "(95% -0.10 to +0.90), within the limit",
    ]
    first, second, why = deploy_controlled.lines_of(controlled(held="failed"))
    assert "KEPT on" in first and second.endswith("NOT within 0.3")
    assert "were not chosen on held-out patients" in why
    few = controlled(held="open") | {"patients": ["p"]}
    first, second = deploy_controlled.lines_of(few)
    assert "few enough to make it rough" in first and "nothing is known" in second


def test_where_nothing_keeps_the_limit_it_says_which_and_why():
    first, _, why = deploy_controlled.lines_of(controlled("failed", drops=(1.5, 0.75)))
    assert "NOT KEPT" in first and "the best is +0.75" in first
    assert why.startswith("why not: every layer has 8 bits (b have fewer than 8); with all weights")
    assert "+1.25 points are lost, with all activations in float -0.50" in why
    assert "those of x cost most" in why and "a larger --budget-mb" in why


def test_the_status_of_the_command_is_that_of_its_search(quantized, tmp_path):
    write_json(tmp_path / "q" / "accuracy_control.json", controlled("failed"))
    (content, lines, status), given, said = quantized(max_drop=0.3)
    assert status == 1 and content["accuracy_control"]["state"] == "failed"
    assert any("NOT KEPT" in line for line in lines)
    (first, control), (second, search) = given
    assert (first, second) == ("k", "q"), "the control is what drops are measured against"
    assert control[-1].max_drop == 0.3 and search[-1] == tmp_path / "k"
    assert said[0] == (0.0, "k") and said[-1] == (1.0, "q")


@pytest.mark.parametrize("cached", [False, True])
def test_every_network_that_was_scored_has_its_line(quantized, tmp_path, cached):
    (content, lines, _), _, _ = quantized(cached)
    assert lines == [
        f"checkpoint: {tmp_path / 'c.pt'} is ours", "note: no classes",
        "data: the phantom (synthetic)",
        "network                             Dice on held-out slices",
        "----------------------------------  -----------------------",
        "FP32 as it came                     62.50",
        "FP32 control, the same extra steps  50.00",
        "quantized, calibrated only (PTQ)    30.00",
        "quantized, after QAT                not scored",
        "note: few slices",
        f"wrote {tmp_path / 'q'}{' (was there already)' if cached else ''}; next: lmaunet-deploy "
        f"build --target ort --run {tmp_path}",
    ]  # fmt: skip
    assert set(content["scores"]) == {"float32", "control", "ptq", "qat"}
    assert "allocation" not in content and "explain" not in content


def test_bits_and_costs_are_told_where_they_were_asked_for(quantized, tmp_path):
    (content, lines, _), _, _ = quantized(budget_mb=1.0, explain=True, source=DataSource(tmp_path))
    assert content["allocation"] == allocation() and len(content["explain"]) == 2
    assert f"data: {tmp_path}" in lines and f"plot: {tmp_path / 'q' / 'allocation.svg'}" in lines
    assert "all        weights  5.00e-01          25.00%" in lines


def test_another_process_than_the_first_says_nothing(quantized, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert quantized()[0] == ({}, [], 0)


def test_a_checkpoint_that_is_a_folder_is_none(tmp_path):
    with pytest.raises(UserError, match=r"does not exist or is not a file; give a .pt file$"):
        quantizing.qat(None, tmp_path, None, None, QatOptions())


def test_every_place_in_the_plot():
    """Bars by bytes, dots on a logarithmic axis from one power of ten to another."""
    root = ElementTree.fromstring(draw_allocation(allocation()))
    assert (root.get("width"), root.get("height")) == ("980", str(92 + 4 * 17 + 12))
    lines = [line for line in root.iter(f"{SVG}line")]
    texts = [text.text for text in root.iter(f"{SVG}text")]
    assert [text for text in texts if text.startswith("1e")] == ["1e-4", "1e-3", "1e-2"]
    assert [float(line.get("x1")) for line in lines] == [540, 740, 940]
    assert [text for text in texts if text.endswith(" bits")] == [
        "8 bits", "4 bits", "3 bits", "2 bits"
    ]  # fmt: skip
    legend = [rect for rect in root.iter(f"{SVG}rect") if rect.get("width") == "12"]
    assert [rect.get("x") for rect in legend] == ["0", "80", "160", "240"]
    rows = [group for group in root.iter(f"{SVG}g") if group.find(f"{SVG}circle") is not None]
    assert [row.get("transform") for row in rows] == [
        f"translate(0 {92 + 17 * index})" for index in range(4)
    ]
    bars = [row.find(f"{SVG}rect") for row in rows]
    assert [(bar.get("x"), float(bar.get("width"))) for bar in bars] == [
        ("150", 300.0), ("150", 150.0), ("150", 112.5), ("150", 75.0),
    ]  # fmt: skip
    filled = [float(row.findall(f"{SVG}circle")[-1].get("cx")) for row in rows]
    assert filled == [540, 540, 740, 940]


def test_an_axis_shows_eight_powers_of_ten_at_most():
    content = allocation()
    content["layers"][0]["sensitivity"]["8"] = 1e-30
    content["layers"][1]["sensitivity"]["4"] = 3.0
    words = [
        text.text for text in ElementTree.fromstring(draw_allocation(content)).iter(f"{SVG}text")
    ]
    assert [word for word in words if word.startswith("1e")] == [f"1e{e}" for e in range(-7, 2)]
