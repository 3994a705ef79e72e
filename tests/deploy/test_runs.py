"""Which run and which data a command works on, and which stages belong together."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from lmaunet.deploy import outcome, runs
from lmaunet.deploy.outcome import asked_of, matching_control, noted_spec
from lmaunet.deploy.runs import DataSource, choose_data, find_run, run_for_checkpoint
from lmaunet.errors import UserError
from lmaunet.spec import named_spec
from lmaunet.stage import Stage, read_json, write_json
from lmaunet.stated_spec import state_spec


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def stage(run, name, options=None, **inputs):
    made = Stage(Path(run), name, inputs, options or {}, 5)
    made.write(lambda folder: None)
    return made.folder / "manifest.json"


def test_the_newest_run_is_that_of_the_stage_that_was_made_last():
    """Whichever comes first in the alphabet; a build is a stage too."""
    for run, name, when in (
        ("runs/b", "qat", 100), ("runs/a", "train", 300), ("runs/c", "build/ort", 200)
    ):  # fmt: skip
        os.utime(stage(run, name), (when, when))
    assert find_run(None) == Path("runs/a")
    os.utime("runs/b/qat/manifest.json", (400, 400))
    assert find_run(None) == Path("runs/b")
    os.utime("runs/c/build/ort/manifest.json", (500, 500))
    assert find_run(None) == Path("runs/c")
    assert find_run(Path("runs/a")) == Path("runs/a")


def test_a_manifest_that_is_moved_away_meanwhile_is_the_oldest(monkeypatch):
    for run, when in (("runs/a", 100), ("runs/b", 200)):
        os.utime(stage(run, "qat"), (when, when))
    changed = runs._changed
    monkeypatch.setattr(
        runs, "_changed", lambda path: changed(path if "runs/a" in str(path) else Path("gone"))
    )
    assert find_run(None) == Path("runs/a")
    assert changed(Path("gone")) == 0.0


def test_a_file_is_no_run():
    Path("file").write_text("")
    for look in (
        find_run,
        lambda run: run_for_checkpoint(run, Path("x.pt")),
        lambda run: runs.run_for_training(run, named_spec("demo"), None),
    ):
        with pytest.raises(UserError, match=r"^--run file is a file; name a folder$"):
            look(Path("file"))


def test_a_run_is_named_after_its_network_and_data():
    spec = named_spec("demo")
    for source, name in (
        (None, "demo-calibration_data"), (DataSource(None), "demo-phantom"),
        (DataSource(Path("x/y.npz")), "demo-y"), (DataSource(Path("x/../z")), "demo-z"),
    ):  # fmt: skip
        assert runs.run_for_training(None, spec, source) == Path("runs") / name


@pytest.mark.parametrize("damage", ["{", "[]", '{"schema": 1}'])
def test_a_damaged_run_quantized_nothing_that_is_known(damage):
    Path("c.pt").write_text("1")
    manifest = stage("runs/a", "qat", checkpoint=Path("c.pt"))
    assert run_for_checkpoint(None, Path("c.pt")) == Path("runs/a")
    manifest.write_text(damage)
    assert run_for_checkpoint(None, Path("c.pt")).name.startswith("c-6b86b273")


def test_data_are_those_that_are_given_then_those_of_the_latest_stage_then_the_example():
    noted = {name: DataSource(Path(name), Path("m.json"), 7) for name in ("qat", "train")}
    given = DataSource(None)
    with pytest.raises(UserError, match=r"^no data: give --data DIR, or get the example CT with"):
        choose_data(Path("r"), None)
    Path("calibration_data").mkdir()
    Path("calibration_data/SOURCE.json").write_text("{}")
    assert choose_data(Path("r"), None) == DataSource(Path("calibration_data"))
    for name in ("train", "qat"):
        stage("r", name, {"data": noted[name].to_json()})
        assert choose_data(Path("r"), None) == noted[name]
        assert choose_data(Path("r"), given) is given


@pytest.mark.parametrize(
    "source",
    [DataSource(None), DataSource(None, seed=3), DataSource(Path("d")),
     DataSource(Path("d"), Path("m"), 9)],
)  # fmt: skip
def test_a_source_is_read_as_it_was_written(source):
    assert DataSource.from_json(source.to_json()) == source
    assert source.phantom == (source.path is None)


@pytest.mark.parametrize(
    "content", [{}, None, {"path": None, "class_map": None, "seed": "x"}, {"path": 3}, [],
                {"path": 3, "class_map": None, "seed": 0}],
)  # fmt: skip
def test_a_damaged_note_on_the_data_asks_for_them(content):
    with pytest.raises(UserError, match=r"^the run's note on its data is damaged \(.*--data DIR$"):
        DataSource.from_json(content)


@pytest.mark.parametrize(
    ("channels", "classes", "said"),
    [
        (1, 2, None),
        (2, 2, r"x has 2 channel\(s\), spec demo takes 1 \(the data's are c0, c1\); .* 2$"),
        (2, 3, r"x has 2 channel\(s\), .* --channels 2 --classes 3$"),
        (1, 1, r"^x has 1 classes, spec demo has 2; use a network with --classes 1, or a --class"),
        (1, 3, r"^x has 3 classes, spec demo has 2; use a network with --classes 3, or a --class"),
    ],
)
def test_data_fit_the_network_on_either_side(monkeypatch, channels, classes, said):
    import numpy as np

    images = np.zeros((1, channels, 4, 5), np.float32)
    data = SimpleNamespace(
        name="x", train=SimpleNamespace(images=images), classes=("a",) * classes,
        channels=tuple(f"c{i}" for i in range(channels)),
    )  # fmt: skip
    asked = []
    monkeypatch.setattr("lmaunet.data.loaders.load", lambda *a, **k: asked.append((a, k)) or data)
    monkeypatch.setattr("lmaunet.data.loaders.load_phantom", lambda **k: asked.append(k) or data)
    spec = named_spec("demo").replace(classes=2, input_size=(32, 48))
    for source in (DataSource(None, seed=9), DataSource(Path("d"), Path("m"), 9)):
        if said is None:
            assert source.load(spec) is data
            continue
        with pytest.raises(UserError, match=said):
            source.load(spec)
    size = {"size": (32, 48), "seed": 9, "training": None, "spacing_mm": None, "fit": None}
    assert asked == [size, ((Path("d"),), size | {"class_map": Path("m")})]


def both(qat=None, control=None, seed=5, file="c.pt"):
    """A quantization of ``c.pt`` and a control, each with these options beside the usual ones."""
    Path("c.pt").write_text("1")
    common = {"data_sha256": "d", "spec": {"widths": [4]}, "weights": "ema"}
    schedule = {"epochs": 5}
    for name, own, changes in (
        ("qat", {"settings": {"schedule": schedule}}, qat),
        ("control", {"schedule": schedule}, control),
    ):
        inputs = {"checkpoint": Path(file if name == "control" else "c.pt")}
        number = seed if name == "control" else 5
        Stage(Path("r"), name, inputs, common | own | (changes or {}), number).write(
            lambda folder: None
        )


@pytest.mark.parametrize(
    ("what", "values"),
    [
        # one that is smaller and one that is larger than the quantization's
        ("data", [{"data_sha256": "c"}, {"data_sha256": "e"}]),
        ("schedule", [{"schedule": {"epochs": 4}}, {"schedule": {"epochs": 6}}]),
        ("set of weights", [{"weights": "a"}, {"weights": "z"}, {"weights": None}]),
        ("spec", [{"spec": {"widths": [3]}}, {"spec": {"widths": [5]}}]),
    ],
)
def test_a_control_that_differs_in_one_thing_is_none(what, values):
    both()
    assert matching_control(Path("r")) == Path("r/control")
    for changes in values:
        both(control=changes)
        with pytest.raises(UserError, match=f"^r/control has another {what} than r/qat, which"):
            matching_control(Path("r"))


@pytest.mark.parametrize("seed", [4, 6])
def test_a_control_of_another_seed_is_none(seed):
    both(seed=seed)
    with pytest.raises(UserError, match=r"^r/control has another seed than r/qat"):
        matching_control(Path("r"))


@pytest.mark.parametrize("content", ["0", "2", "3"])
def test_a_control_of_another_checkpoint_is_none(content):
    Path("other.pt").write_text(content)
    both(file="other.pt", seed=4)
    with pytest.raises(UserError, match=r"^r/control has another checkpoint and seed than r/qat"):
        matching_control(Path("r"))


@pytest.mark.parametrize("name", ["qat", "control"])
def test_a_manifest_without_what_is_compared_is_damaged(name):
    both()
    path = Path("r") / name / "manifest.json"
    content = read_json(path)
    del content["options"]["data_sha256"]
    write_json(path, content)
    with pytest.raises(UserError, match=r"the manifest of r/qat or r/control is damaged \(Key"):
        matching_control(Path("r"))


def noting(spec, asked, content="1"):
    Path("c.pt").write_text(content)
    made = Stage(Path("r"), "qat", {"checkpoint": Path("c.pt")}, {"spec": spec})
    made.write(lambda folder: write_json(folder / outcome.ORIGIN_FILE, {"asked": asked}))


def test_a_network_is_known_where_the_same_was_asked_of_the_same_file():
    spec = named_spec("demo").replace(classes=3)
    asked = asked_of(state_spec("demo", classes=3), "ema")
    assert noted_spec(Path("r"), "qat", Path("c.pt"), asked) is None
    noting(spec.to_json(), asked)
    assert noted_spec(Path("r"), "qat", Path("c.pt"), asked) == spec
    for other in (
        asked_of(None, "ema"), asked_of(state_spec("demo", classes=3), None),
        asked_of(state_spec("demo", classes=4), "ema"), asked_of(state_spec("demo"), "ema"),
    ):  # fmt: skip
        assert noted_spec(Path("r"), "qat", Path("c.pt"), other) is None
    for content in ("0", "2", "3"):
        Path("c.pt").write_text(content)
        assert noted_spec(Path("r"), "qat", Path("c.pt"), asked) is None
    noting({"widths": 3}, asked)
    assert noted_spec(Path("r"), "qat", Path("c.pt"), asked) is None


def test_what_was_asked_is_plain():
    assert asked_of(None, None) == {"base": None, "stated": {}, "weights": None}
    asked = asked_of(state_spec(None, 5, 2, 64), "ema")
    assert asked == {
        "base": None, "weights": "ema",
        "stated": {"classes": 5, "in_channels": 2, "input_size": [64, 64]},
    }  # fmt: skip
    assert asked_of(state_spec("demo"), None)["base"] == named_spec("demo").to_json()


def test_a_stage_is_made_once_and_only_the_first_process_writes(monkeypatch):
    calls = []
    made = Stage(Path("r"), "train", {}, {})

    def work(folder):
        calls.append(folder)
        folder.mkdir(parents=True, exist_ok=True)

    monkeypatch.setenv("RANK", "1")
    assert outcome.run_stage(made, work) == outcome.Outcome(made.folder, False)
    assert calls == [made.partial] and not made.folder.exists()
    monkeypatch.delenv("RANK")
    assert outcome.run_stage(made, work) == outcome.Outcome(made.folder, False)
    assert made.folder.exists() and len(calls) == 2
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        assert outcome.run_stage(made, work) == outcome.Outcome(made.folder, True)
    assert len(calls) == 2


@pytest.mark.parametrize("rank", ["0", "1"])
def test_the_first_process_writes_a_stage_and_clears_what_is_left_of_it(monkeypatch, rank):
    """A stage begins anew unless it is said to resume."""
    calls = []
    made = SimpleNamespace(
        folder=Path("r/x"), partial=Path("r/.x"), is_current=lambda: True,
        clear=lambda: calls.append("clear"),
        write=lambda work, *, resume: calls.append(("write", resume)),
    )  # fmt: skip
    monkeypatch.setenv("RANK", rank)
    first = rank == "0"
    assert outcome.run_stage(made, calls.append) == outcome.Outcome(Path("r/x"), True)
    assert calls == (["clear"] if first else [])
    calls.clear()
    made.is_current = lambda: False
    for options in ({}, {"resume": True}):
        assert outcome.run_stage(made, calls.append, **options) == outcome.Outcome(
            Path("r/x"), False
        )
    assert calls == ([("write", False), ("write", True)] if first else [Path("r/.x")] * 2)
