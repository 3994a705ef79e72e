"""What the stages that score and measure write, and what a report is made of them."""

from __future__ import annotations

from types import SimpleNamespace

import lone_build
import numpy as np
import pytest

from lmaunet.artifacts import Build, Measurement, Unavailable
from lmaunet.deploy import measuring, pipeline, reporting
from lmaunet.errors import Disagreement, UserError
from lmaunet.stage import Stage, read_json, read_manifest
from lmaunet.train.metrics import Scores

SIZE = Measurement("size_mb", 1.5, "MB", "measured")
LATENCY = Unavailable("latency_ms", "a GPU", "none", "buy one")


@pytest.fixture
def images():
    """Five held-out slices, whose label is the first channel."""
    pixels = np.arange(5 * 3 * 4, dtype=np.float32).reshape(5, 1, 3, 4) % 3
    val = SimpleNamespace(images=pixels, labels=pixels[:, 0].astype(np.uint8), cases=["c"] * 5)

    class Slices(SimpleNamespace):
        def __len__(self):
            return 5

    data = SimpleNamespace(val=Slices(**vars(val)), classes=("a", "b", "c"), case_spacing_mm={})
    return SimpleNamespace(sha256="digest", load=lambda: data, data=data, spec=None)


def logits_of(shift):
    """A network that takes each pixel for the class of its value and so many more."""
    return lambda model, images: np.stack(
        [(images[:, 0] + shift) % 3 == c for c in range(3)], 1
    ).astype(np.float32)


@pytest.fixture
def controlled(monkeypatch, tmp_path):
    """A function that scores the two FP32 networks, of which each has this Dice."""
    for name in ("float32", "control"):
        (tmp_path / "control").mkdir(exist_ok=True)
        (tmp_path / "control" / f"{name}.pt").write_text(name)
    monkeypatch.setattr(measuring, "matching_control", lambda run: run / "control")
    monkeypatch.setattr("lmaunet.net.checkpoint.load_checkpoint", lambda path: path.stem)
    monkeypatch.setattr("lmaunet.sources.checkpoint.restore", lambda loaded, path: loaded)

    monkeypatch.setattr("lmaunet.deploy.heatmap_pictures.write_heatmaps", lambda *given: None)

    def measure(images, **dice):
        shifts = dict(zip(("float32", "control"), (0, 1), strict=True))
        monkeypatch.setattr(
            "lmaunet.train.metrics.predict_logits",
            lambda model, images: logits_of(shifts[model])(model, images),
        )
        given = iter(dice.values())
        monkeypatch.setattr(
            measuring, "_score", lambda predicted, data: Scores(next(given), {}, 1.0)
        )
        return measuring.measure_reference(tmp_path, images).folder

    return measure


NAN = float("nan")


@pytest.mark.parametrize(
    ("float32", "control", "best"),
    [(0.5, 0.25, "float32"), (0.25, 0.5, "control"), (0.5, 0.5, "float32"), (NAN, 0.0, "control"),
     (NAN, NAN, "float32"), (0.0, NAN, "float32"), (NAN, 0.5, "control")],
)  # fmt: skip
def test_the_reference_is_the_better_of_both_networks(images, controlled, float32, control, best):
    """The checkpoint as it came where neither is; one without a score is the worse one."""
    folder = controlled(images, float32=float32, control=control)
    content = read_json(folder / "measure.json")
    assert content["best"] == best
    assert {name: scores["dice"] for name, scores in content["scores"].items()} == {
        "float32": None if float32 != float32 else float32,
        "control": None if control != control else control,
    }
    with np.load(folder / "predictions.npz") as stored:
        classes = stored["classes"]
    assert classes.dtype == np.uint8
    shift = {"float32": 0, "control": 1}[best]
    np.testing.assert_array_equal(classes, (images.data.val.labels + shift) % 3)
    manifest = read_manifest(folder)
    assert set(manifest["inputs"]) == {"float32", "control"}
    assert manifest["options"] == {"data_sha256": "digest"}


@pytest.fixture
def built(monkeypatch, tmp_path):
    """A function that measures a build whose network computes these logits."""
    folder = Stage(tmp_path, "build/x", {}, {}).write(lambda out: (out / "m").write_bytes(b"1"))
    exported = tmp_path / "export" / "network.float32.onnx"
    exported.parent.mkdir()
    exported.write_bytes(b"float")
    build = Build("x", folder, folder / "m", (), {"n": 5})
    asked = []

    def figures(build, images, float32):
        asked.append((images, float32))
        build.detail["latency"] = {"runs": 30}
        return {"size_mb": SIZE, "latency_ms": LATENCY}

    def measure(images, run):
        target = lone_build.target(
            name="x", summary="an x", run=run, measure=figures, provenance=lambda b: "emulated",
            arithmetic=lambda build: "in integers",
        )  # fmt: skip
        monkeypatch.setattr(measuring, "load_build", lambda run, name: build)
        monkeypatch.setattr(measuring, "get_target", lambda name: target)
        monkeypatch.setattr(
            measuring, "_score", lambda predicted, data: Scores(float(predicted.mean()), {}, 3.5)
        )
        said = []
        made = measuring.measure_target(tmp_path, "x", images, lambda *line: said.append(line))
        return made.folder, said, asked

    return measure


def test_a_build_is_scored_and_then_measured_beside_fp32(images, built, tmp_path):
    folder, said, asked = built(images, logits_of(0))
    assert said == [(0.1, "x: 5 held-out slices through in integers"), (0.8, "x: size and latency")]
    content = read_json(folder / "measure.json")
    assert content["scores"]["dice"] == images.data.val.labels.mean()
    assert content["figures"] == {"size_mb": SIZE.to_json(), "latency_ms": LATENCY.to_json()}
    assert (content["arithmetic"], content["provenance"], content["summary"]) == (
        "in integers", "emulated", "an x",
    )  # fmt: skip
    assert content["detail"] == {"n": 5, "latency": {"runs": 30}}
    ((given, float32),) = asked
    assert given is images.data.val.images
    assert float32 == tmp_path / "export" / "network.float32.onnx"
    with np.load(folder / "predictions.npz") as stored:
        assert stored["classes"].dtype == np.uint8
        np.testing.assert_array_equal(stored["classes"], images.data.val.labels)
    options = read_manifest(folder)["options"]
    assert options == {"data_sha256": "digest", "arithmetic": "in integers"}


def test_a_build_that_computes_no_number_is_not_scored(images, built, tmp_path):
    def broken(build, images):
        logits = logits_of(0)(build, images)
        logits[3] = np.nan
        return logits

    with pytest.raises(
        Disagreement, match=r"^x: the logits of 1 of 5 .* first of slice 3; nothing"
    ):
        built(images, broken)
    assert not (tmp_path / "measure").exists()


def test_the_data_of_a_run_are_those_of_its_quantization(
    monkeypatch, tmp_path, tiny_spec, tiny_data
):
    """And what they came to is noted as soon as it is known."""
    remembered = []
    monkeypatch.setattr(pipeline.RunData, "sha256", "digest")
    monkeypatch.setattr(pipeline.RunData, "load", lambda self: tiny_data)
    monkeypatch.setattr(pipeline.RunData, "remember", lambda self: remembered.append(self.run))
    noted = {"path": "d", "class_map": None, "seed": 3}
    for digest in ("digest", "digess", "digesu"):
        options = {"spec": tiny_spec.to_json(), "data": noted, "data_sha256": digest}
        Stage(tmp_path, "qat", {}, options).write(lambda folder: None)
        if digest != "digest":
            with pytest.raises(UserError, match="have changed since"):
                measuring.open_run_data(tmp_path)
            continue
        spec, source, data = measuring.load_run_data(tmp_path)
        assert spec == tiny_spec and source.to_json() == noted and data is tiny_data
    assert remembered == [tmp_path]


@pytest.fixture
def measured(monkeypatch, tmp_path):
    """A run whose two targets are measured; what its report was made of."""
    made = SimpleNamespace(shown=[], written=[], assembled=[])
    val = SimpleNamespace(
        images=np.arange(24).reshape(2, 2, 2, 3), labels=np.ones((2, 2, 3), int),
        slice_cases=["p", "q"], slice_z=[7, 9], by_slice=lambda array: array,
    )  # fmt: skip
    data = SimpleNamespace(val=val, classes=("air", "liver"))
    monkeypatch.setattr(reporting, "require_builds", lambda run, limits: None)
    for name in ("converted_norms", "note_of"):
        monkeypatch.setattr(reporting, name, lambda run: [])
    monkeypatch.setattr(reporting, "limits_of", lambda run: {})
    monkeypatch.setattr(reporting, "load_run_data", lambda run: ("spec", None, data))

    def folders(run, only, say):
        assert only is None
        return {name: tmp_path / name for name in ("reference", "b", "a")}

    for index, name in enumerate(("reference", "b", "a")):
        (tmp_path / name).mkdir()
        np.savez(tmp_path / name / "predictions.npz", classes=np.full((2, 2, 3), index))
    monkeypatch.setattr(reporting, "measure_all", folders)
    monkeypatch.setattr(reporting, "report_key", lambda run, folders, asked: f"{asked}")
    monkeypatch.setattr(
        reporting, "_scores", lambda folder: ({"of": folder.name}, {"FP32": np.zeros((2, 2, 3))})
    )
    monkeypatch.setattr(reporting, "_target", lambda run, name, folder, scores, data: folder.name)
    monkeypatch.setattr(reporting, "_reference", lambda scores, data: scores)
    monkeypatch.setattr(reporting, "_data", lambda data, scores, notes: "data")
    monkeypatch.setattr(reporting, "_model", lambda run, spec: spec)
    monkeypatch.setattr(reporting, "_float32_size", lambda run: "size")
    monkeypatch.setattr(
        reporting.report, "assemble",
        lambda *given, **options: made.assembled.append((given, options)) or {"is": "new"},
    )  # fmt: skip
    monkeypatch.setattr(
        reporting.report, "with_baseline", lambda content, before, name: {**content, "old": name}
    )
    monkeypatch.setattr(reporting.report, "load", lambda path: {"is": path.name})
    monkeypatch.setattr(
        reporting, "overlay_rows",
        lambda *given, **options: made.shown.append((given, options)) or {},
    )  # fmt: skip

    def write(run, content, pictures):
        path = run / "report.json"
        path.write_text("{}")
        made.written.append(content)
        return (path,)

    monkeypatch.setattr(reporting.report, "write_report", write)
    monkeypatch.setattr(reporting, "_told", lambda content, paths: (content, list(paths), 5))
    return made


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("old", [True, False])
def test_a_report_is_made_of_every_target_once(measured, tmp_path, old, strict):
    """The second time it is there already, unless something else is asked."""
    baseline = tmp_path / "old.json" if old else None
    if baseline:
        baseline.write_text("{}")

    def make(strict, *limits):
        return reporting.make_report(tmp_path, baseline, strict, lambda *line: None, limits)

    wanted = {"is": "new"} | ({"old": str(baseline)} if old else {})
    assert make(strict) == (wanted, [tmp_path / "report.json"], 5) and measured.written == [wanted]
    (((model, told, scored, targets), options),) = measured.assembled
    assert (model, told, scored) == ("spec", "data", {"of": "reference", "size_mb": "size"})
    assert targets == {"b": "b", "a": "a"} and options["strict"] is strict
    assert {gate.figure for gate in options["gates"]} >= {"dice_drop_points", "size_mb"}
    (((images, labels, predictions, classes), shown),) = measured.shown
    assert images.tolist() == [[[0, 1, 2], [3, 4, 5]], [[12, 13, 14], [15, 16, 17]]]
    assert labels.shape == (2, 2, 3) and classes == ("air", "liver")
    assert {name: found.flat[0] for name, found in predictions.items()} == {
        "FP32": 0, "b": 1, "a": 2,
    }  # fmt: skip
    assert shown == {"titles": ["p, slice 7", "q, slice 9"]}
    assert make(strict) == ({"is": "report.json"}, [tmp_path / "report.json"], 5)
    assert len(measured.written) == 1
    make(not strict)
    make(strict, "dice=0.5")
    assert len(measured.written) == 3
