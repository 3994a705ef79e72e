"""What the commands of the pipeline say of their stages."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace

import pytest

from lmaunet.artifacts import Agreement, Build
from lmaunet.deploy import building, commands, measuring, pipeline
from lmaunet.deploy.infer_command import InferOptions
from lmaunet.deploy.outcome import Outcome
from lmaunet.deploy.runs import DataSource
from lmaunet.spec import named_spec
from lmaunet.stage import write_json

GOOD = Agreement("logits", 2.5e-5, 3, 4096, 1e-3, True, 7)
BAD = Agreement("codes", 4.0, 9, 512, 0.5, False, 1)


@pytest.fixture(autouse=True)
def free(monkeypatch):
    """Commands without locks, and with any run."""
    for name in ("in_use", "in_use_if_there"):
        monkeypatch.setattr(commands, name, lambda run: contextlib.nullcontext())
    monkeypatch.setattr(building, "in_use", lambda run: contextlib.nullcontext())
    for module in (commands, building):
        monkeypatch.setattr(module, "read_manifest", lambda folder: {})


def figures(size, latency):
    def figure(value, unit):
        return {"value": value, "unit": unit, "provenance": "measured"}

    lost = {"unavailable": {"tool": "GPU", "why": "no GPU here", "fix": "x"}}
    return {
        "size_mb": figure(size, "MB"), "latency_ms": figure(latency, "ms") if latency else lost,
    }  # fmt: skip


@pytest.mark.parametrize("order", [("reference", "a", "b"), ("a", "reference", "b")])
def test_every_target_has_its_row_and_fp32_the_score_of_the_better_network(
    monkeypatch, tmp_path, order
):
    """Wherever FP32 stands among the targets."""
    records = {
        "reference": {"best": "control", "scores": {"float32": {"dice": 0.25},
                                                    "control": {"dice": 0.5}}},
        "a": {"scores": {"dice": 0.123456}, "figures": figures(1.23456, 7.0)},
        "b": {"scores": {"dice": None}, "figures": figures(20.0, None)},
    }  # fmt: skip
    for name, content in records.items():
        (tmp_path / name).mkdir()
        write_json(tmp_path / name / "measure.json", content)
    folders = {name: tmp_path / name for name in order}
    monkeypatch.setattr(measuring, "measure_all", lambda run, target, say: folders)
    content, lines = commands.measure(tmp_path, None)
    assert content == records
    assert {tuple(line.split(maxsplit=1)) for line in lines[2:]} == {
        ("FP32", "50.00"),
        ("a", "12.35       1.23 MB (measured)  7 ms (measured)"),
        ("b", "not scored  20 MB (measured)    unavailable: no GPU here"),
    }
    assert [line.split()[0] for line in lines[2:]] == [
        {"reference": "FP32"}.get(name, name) for name in order
    ]


@pytest.mark.parametrize("cached", [False, True])
def test_training_says_its_dice_and_what_comes_next(monkeypatch, tmp_path, cached):
    scores = {"dice": 0.7654, "per_class": {"liver": 0.91249, "aorta": 0.5}}
    write_json(tmp_path / "train.json", {"scores": scores, "history": []})
    given = []

    def train(*arguments):
        given.append(arguments[:5])
        return Outcome(tmp_path, cached)

    monkeypatch.setattr(pipeline, "train", train)
    spec, source = named_spec("demo"), DataSource(None)
    content, lines = commands.train(tmp_path, spec, source, 3, 0.25, 5, 9)
    (run, got, data, schedule, seed) = given[0]
    assert (run, got, data, seed) == (tmp_path, spec, source, 9)
    assert (schedule.epochs, schedule.learning_rate, schedule.batch_size) == (3, 0.25, 5)
    assert content["scores"] == scores and lines[0] == "Dice 76.5 on held-out slices"
    assert [line.split() for line in lines[3:5]] == [["liver", "91.2"], ["aorta", "50.0"]]
    there = " (was there already)" if cached else ""
    assert lines[5] == (
        f"wrote {tmp_path}{there}; next: lmaunet-deploy qat --ckpt {tmp_path / 'model.pt'}"
    )
    monkeypatch.setenv("RANK", "1")
    assert commands.train(tmp_path, spec, source, 3, 0.25, 5, 9) == ({}, [])


@pytest.mark.parametrize("lowering", [None, "unrolled"])
def test_an_export_says_what_agrees_and_what_does_not(monkeypatch, tmp_path, lowering):
    write_json(tmp_path / "export.json", {"agreements": [GOOD.to_json(), BAD.to_json()]})
    monkeypatch.setattr(building, "export_run", lambda run, bar: Outcome(tmp_path, False))
    monkeypatch.setattr(commands, "_lower", lambda run, outcome, name: f"{run.name} as {name}")
    content, lines = commands.export(tmp_path, lowering)
    assert content["agreements"] == [GOOD.to_json(), BAD.to_json()]
    assert lines[:2] == [
        "agrees: logits: 3 of 4096 beyond 0.001 (largest 2.5e-05, 7 allowed)",
        "DISAGREES: codes: 9 of 512 beyond 0.5 (largest 4, 1 allowed)",
    ]
    also = [f"wrote {tmp_path.name} as unrolled"] if lowering else []
    assert lines[2:] == [*also, f"wrote {tmp_path}"]


def bar_into(bar):
    """Return a progress bar whose title and reports go into a list."""

    @contextlib.contextmanager
    def shown(title):
        bar.append(title)
        yield lambda fraction, line: bar.append((fraction, line))

    return shown


@pytest.mark.parametrize("fails", [False, True])
def test_another_form_of_the_scan_is_written_beside_the_stages(monkeypatch, tmp_path, fails):
    """Whole or not at all: a write that fails keeps the old file."""
    (tmp_path / "export").mkdir()
    monkeypatch.setattr("onnx.load", lambda path: path.relative_to(tmp_path).as_posix())
    monkeypatch.setattr("lmaunet.export.lower.lower", lambda model, form: f"{model} as {form}")

    def save(model, path):
        path.write_text(model)
        if fails:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("onnx.save", save)
    path = tmp_path / "network.unrolled.onnx"
    path.write_text("old")
    exported = Outcome(tmp_path / "export", False)
    if fails:
        with pytest.raises(OSError, match="No space left"):
            commands._lower(tmp_path, exported, "unrolled")
    else:
        assert commands._lower(tmp_path, exported, "unrolled") == path
    assert path.read_text() == ("old" if fails else "export/network.qcdq.onnx as unrolled")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["export", path.name]


def test_an_export_takes_the_runs_own_data(monkeypatch, tmp_path):
    bar = []

    def export(run, source, progress):
        progress(0.25, "half")
        return run, source

    monkeypatch.setattr(building, "choose_data", lambda run, given: (run.name, given))
    monkeypatch.setattr(pipeline, "export", export)
    assert building.export_run(tmp_path, bar_into(bar)) == (tmp_path, (tmp_path.name, None))
    assert bar == ["exporting to ONNX", (0.25, "half")]


def test_a_build_says_what_ships_and_where_it_is(monkeypatch, tmp_path):
    model, library = tmp_path / "model.onnx", tmp_path / "operators.so"
    # a million and one, or less one, would round them otherwise
    model.write_bytes(b"x" * 1_234_501)
    library.write_bytes(b"x" * 1_234_499)
    built = Build("ort", tmp_path, model, (GOOD,), detail={"n": 5}, beside=(library,))
    said = []

    def build(run, target, options, progress):
        progress("compiling")
        said.append((run, target, options))
        return Outcome(tmp_path / "ort", True)

    bar = []
    monkeypatch.setattr(commands, "progress_bar", bar_into(bar))
    exported = Outcome(tmp_path / "export", False)
    monkeypatch.setattr(building, "export_run", lambda run, bar: exported)
    monkeypatch.setattr(pipeline, "build", build)
    monkeypatch.setattr(pipeline, "load_build", lambda run, target: built)
    content, lines = commands.build(tmp_path, "ort", {"cpu": "vnni"})
    assert said == [(tmp_path, "ort", {"cpu": "vnni"})]
    assert bar == ["building ort", (0.5, "compiling")]
    assert lines[1:] == [
        f"ships {model} (1.235 MB), {library} (1.234 MB)",
        f"wrote {tmp_path / 'ort'} (was there already)",
    ]
    assert lines[0].startswith("agrees: logits: 3 of 4096")
    assert content == {
        "target": "ort", "folder": str(tmp_path / "ort"), "shipped": str(model),
        "export": str(tmp_path / "export"), "detail": {"n": 5}, "agreements": [GOOD.to_json()],
    }  # fmt: skip


@pytest.mark.parametrize("phantom", [True, False])
def test_the_demo_runs_every_step_with_its_own_settings(monkeypatch, tmp_path, phantom, capsys):
    steps = []

    def step(name, *result):
        def work(*given):
            steps.append((name, given))
            return result or ({}, [f"{name} is done"])

        return work

    for name in ("train", "qat", "build"):
        monkeypatch.setattr(commands, name, step(name))
    monkeypatch.setattr(commands, "report", step("report", {"n": 1}, ["end"], 1))
    monkeypatch.setattr(commands, "chosen_limits", step("limits"))
    monkeypatch.setattr("lmaunet.deploy.data_commands.fetch", step("fetch"))
    builds = {"ort": {"a": 1}, "fpga": {"b": 2}}
    monkeypatch.setattr(commands, "demo_builds", lambda: builds)
    assert commands.demo(tmp_path, phantom, 9) == ({"n": 1}, ["end"], 1)
    source = DataSource(None, seed=9) if phantom else DataSource(commands.DEFAULT_DATA)
    settle = commands.QatOptions(2, 1e-5, seed=9)
    assert steps == [
        ("limits", ()),
        *([] if phantom else [("fetch", (commands.DEFAULT_DATA, False))]),
        ("train", (tmp_path, named_spec("demo"), source, 75, 3e-3, 8, 9)),
        ("qat", (tmp_path, tmp_path / "train" / "model.pt", source, None, settle)),
        ("build", (tmp_path, "ort", {"a": 1})), ("build", (tmp_path, "fpga", {"b": 2})),
        ("report", (tmp_path, None, False)),
    ]  # fmt: skip
    shown = capsys.readouterr().err.split("\n")
    done = ["train is done", "qat is done", "build is done", "build is done"]
    assert [line for line in shown if line] == ([] if phantom else ["fetch is done"]) + done


def test_infer_passes_on_what_it_was_given(monkeypatch, tmp_path):
    given = []
    monkeypatch.setattr(
        "lmaunet.deploy.inferring.infer",
        lambda *names, **options: given.append((names, options)) or ({}, []),
    )
    assert commands.infer("b", ["i"], "o", InferOptions(0.25, 3), None) == ({}, [], 0)
    ((names, options),) = given
    assert names == ("b", ["i"], "o") and (options["overlap"], options["batch"]) == (0.25, 3)


def test_a_report_without_a_limit_of_its_own_takes_the_usual_ones(monkeypatch, tmp_path):
    given = []
    monkeypatch.setattr(commands, "chosen_limits", lambda limits=(): given.append(limits))
    made = SimpleNamespace(calls=[])

    def report(run, baseline, strict, progress, limits):
        made.calls.append((run, baseline, strict, limits))
        return {}, [], 0

    monkeypatch.setattr(commands.reporting, "make_report", report)
    commands.report(tmp_path, None, False)
    commands.report(tmp_path, tmp_path / "old.json", True, ["dice=0.5"])
    assert given == [(), ["dice=0.5"]]
    assert made.calls == [
        (tmp_path, None, False, ()), (tmp_path, tmp_path / "old.json", True, ["dice=0.5"]),
    ]  # fmt: skip
