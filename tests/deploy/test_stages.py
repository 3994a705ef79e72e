"""What each stage of the pipeline takes, passes on and writes; training itself is left out."""

from __future__ import annotations

import dataclasses
import importlib
from pathlib import Path
from types import SimpleNamespace

import lone_build
import numpy as np
import pytest

from lmaunet.artifacts import Build
from lmaunet.data.confidence import Dropout
from lmaunet.data.modalities import Modalities
from lmaunet.deploy import export_graphs, pipeline
from lmaunet.deploy.export_images import samples_of
from lmaunet.deploy.runs import DataSource
from lmaunet.errors import UserError
from lmaunet.graph.capture import capture
from lmaunet.graph.file import topology_digest
from lmaunet.net.checkpoint import load_checkpoint, save_checkpoint
from lmaunet.net.network import LMaUNet
from lmaunet.quant.settings import QatSettings
from lmaunet.stage import Stage, read_json, read_manifest, sha256, write_json
from lmaunet.train.metrics import Scores
from lmaunet.train.schedule import Schedule

PHANTOM = DataSource(None, seed=3)
SCHEDULE = Schedule(5, 0.25, 3)
SILENT = lambda fraction, line: None  # noqa: E731


@pytest.fixture
def data(monkeypatch, tiny_data):
    """The phantom, of which no run reads the files."""
    monkeypatch.setattr(DataSource, "load", lambda source, spec, training=None: tiny_data)
    return tiny_data


@pytest.fixture
def fitted(monkeypatch):
    """What trained, by the arguments that it was given."""
    importlib.import_module("lmaunet.deploy.elastic")  # it would keep a function put in fit's place
    calls = []

    def fit(model, train, schedule, **options):
        calls.append((model, train, schedule, options))
        (options["folder"] / "training.last.pt").write_text("half")
        return [{"loss": 0.5}]

    scores = Scores(0.625, {"liver": 0.5}, 3.5)
    monkeypatch.setattr("lmaunet.train.loop.fit", fit)
    monkeypatch.setattr("lmaunet.quant.qat.evaluate", lambda model, data: scores)
    return calls


def test_a_training_writes_its_network_and_its_scores(tmp_path, tiny_spec, data, fitted):
    said = []
    made = pipeline.train(
        tmp_path, tiny_spec, PHANTOM, SCHEDULE, 9, lambda *line: said.append(line)
    )
    assert made == pipeline.Outcome(tmp_path / "train", False)
    ((model, train, schedule, options),) = fitted
    assert model.spec == tiny_spec and train is data.train and schedule == SCHEDULE
    assert (options["classes"], options["seed"]) == (9, 9) and options["processes"].first
    assert {p.name for p in made.folder.iterdir()} == {"model.pt", "train.json", "manifest.json"}
    content = read_json(made.folder / "train.json")
    assert content["history"] == [{"loss": 0.5}] and content["scores"]["dice"] == 0.625
    loaded = load_checkpoint(made.folder / "model.pt")
    assert loaded.spec == tiny_spec and loaded.notes == {
        "dice": 0.625, "classes": list(data.classes), "normalization": dict(data.normalization),
    }  # fmt: skip
    manifest = read_manifest(made.folder)
    assert manifest["seed"] == 9 and manifest["options"] == {
        "spec": tiny_spec.to_json(), "data": PHANTOM.to_json(), "schedule": SCHEDULE.to_json(),
        "processes": 1, "data_sha256": manifest["options"]["data_sha256"],
    }  # fmt: skip
    assert said == [(0.0, "reading the data"), (0.0, "loading torch")]


@pytest.mark.parametrize(
    "other",
    [{"schedule": Schedule(4, 0.25, 3)}, {"schedule": Schedule(5, 0.5, 3)}, {"seed": 8},
     {"seed": 10}, {"source": DataSource(None, seed=4)}],
)  # fmt: skip
def test_the_same_training_is_there_and_another_is_not(tmp_path, tiny_spec, data, fitted, other):
    given = {"schedule": SCHEDULE, "seed": 9, "source": PHANTOM}

    def train(**changes):
        asked = given | changes
        return pipeline.train(
            tmp_path, tiny_spec, asked["source"], asked["schedule"], asked["seed"], SILENT
        ).cached

    assert [train(), train(), train(**other)] == [False, True, False]
    assert len(fitted) == 2


@pytest.fixture
def checkpoint(monkeypatch, tmp_path, tiny_spec):
    """A function that writes the checkpoint of a network with notes."""
    monkeypatch.setattr(
        "lmaunet.net.norm_statistics.check_statistics", lambda model, path: ["of its norms"]
    )

    def write(**notes):
        path = tmp_path / "c.pt"
        save_checkpoint(path, tiny_spec, LMaUNet(tiny_spec), **notes)
        return path

    return write


@pytest.mark.parametrize("name", ["qat", "control"])
def test_training_goes_on_from_a_checkpoint(monkeypatch, tmp_path, data, checkpoint, name):
    path = checkpoint(classes=list(data.classes), normalization=dict(data.normalization))
    calls = []

    def work(model, spec, images, *given, **options):
        assert spec == model.spec
        calls.append((model, images, given, options))
        (options["folder"] / "done").write_text("x")

    monkeypatch.setattr("lmaunet.quant.qat.quantize", work)
    monkeypatch.setattr("lmaunet.quant.qat.train_control", work)
    settings = QatSettings(SCHEDULE)
    run, own = (pipeline.qat, settings) if name == "qat" else (pipeline.control, SCHEDULE)
    made = run(tmp_path, path, PHANTOM, own, 9, SILENT)
    assert made == pipeline.Outcome(tmp_path / name, False)
    ((model, images, given, options),) = calls
    assert isinstance(model, LMaUNet) and images is data and given == (own,)
    assert options["seed"] == 9 and options["processes"].first and options["progress"] is SILENT
    manifest = read_manifest(made.folder)
    assert manifest["inputs"]["checkpoint"]["sha256"] == sha256(path) and manifest["seed"] == 9
    wanted = {"settings": settings.to_json()} if name == "qat" else {"schedule": own.to_json()}
    assert manifest["options"] == {
        "spec": model.spec.to_json(), "data": PHANTOM.to_json(), "processes": 1, **wanted,
        "data_sha256": manifest["options"]["data_sha256"],
    }  # fmt: skip
    origin = read_json(made.folder / "origin.json")
    assert origin["notes"] == ["of its norms"] and origin["asked"]["weights"] is None
    assert run(tmp_path, path, PHANTOM, own, 9, SILENT).cached
    for seed in (8, 10):
        assert not run(tmp_path, path, PHANTOM, own, seed, SILENT).cached
    assert len(calls) == 3


def test_a_budget_is_drawn(monkeypatch, tmp_path, data, checkpoint):
    def work(*given, folder, **options):
        write_json(folder / "allocation.json", {"n": 5})
        assert callable(options["file_bytes"])

    monkeypatch.setattr("lmaunet.quant.qat.quantize", work)
    monkeypatch.setattr(pipeline, "draw_allocation", lambda content: f"<svg>{content['n']}</svg>")
    path = checkpoint(classes=list(data.classes))
    for budget in (None, 5_000):
        settings = QatSettings(SCHEDULE, budget_bytes=budget)
        made = pipeline.qat(tmp_path, path, PHANTOM, settings, 9, SILENT)
        drawn = made.folder / "allocation.svg"
        assert (drawn.read_text() if drawn.exists() else None) == (
            "<svg>5</svg>" if budget else None
        )


def test_a_checkpoint_that_names_no_classes_is_noted(monkeypatch, tmp_path, data, checkpoint):
    monkeypatch.setattr(
        "lmaunet.quant.qat.train_control",
        lambda *given, folder, **options: (folder / "x").write_text(""),
    )
    made = pipeline.control(tmp_path, checkpoint(), PHANTOM, SCHEDULE, 9, SILENT)
    first, note = read_json(made.folder / "origin.json")["notes"]
    assert (
        first == "of its norms"
        and note.startswith("the checkpoint names no classes")
        and note.endswith(", ".join(data.classes))
    )


@pytest.mark.parametrize("change", [lambda c: c[:-1], lambda c: [*c, "z"], lambda c: ["A", *c[1:]],
                                    lambda c: ["z", *c[1:]], lambda c: c[::-1]])  # fmt: skip
def test_other_classes_are_refused_before_anything_is_trained(tmp_path, data, checkpoint, change):
    path = checkpoint(classes=change(list(data.classes)))
    with pytest.raises(
        UserError, match=rf"^{path} was trained on the classes .*--class-map to the"
    ):
        pipeline.control(tmp_path, path, PHANTOM, SCHEDULE, 9, SILENT)
    assert not (tmp_path / "control").exists()


@pytest.fixture
def exported(tmp_path):
    """An export that was made, and a function that makes it again with other graphs."""

    def make(*names, content="1"):
        def work(folder):
            for name in ("qcdq", "qonnx", "float32"):
                (folder / f"network.{name}.onnx").write_text(content if name in names else name)
            np.savez(folder / "samples.npz", images=np.arange(6, dtype=np.float32))
            write_json(folder / "interface.json", lone_build.interface().to_json())

        Stage(tmp_path, "export", {}, {"content": [names, content]}).write(work)

    make()
    return make


@pytest.fixture
def target(monkeypatch):
    asked = []

    def build(request):
        asked.append(request)
        request.progress("made")
        (request.folder / "model.bin").write_bytes(b"weights")
        return Build("pixels", request.folder, request.folder / "model.bin", (), {"n": 5})

    made = dataclasses.replace(lone_build.target(), build=build)
    monkeypatch.setattr("lmaunet.deploy.targets.get_target", lambda name: made)
    return asked


@pytest.mark.parametrize(("precision", "float32"), [(None, False), ("int8", False), ("fp16", True),
                                                    ("a", True)])  # fmt: skip
def test_a_build_takes_what_it_reads_and_nothing_else(
    tmp_path, exported, target, precision, float32
):  # fmt: skip
    options = {"n": 1} | ({"precision": precision} if precision else {})
    said = []
    made = pipeline.build(tmp_path, "pixels", options, said.append)
    assert made == pipeline.Outcome(tmp_path / "build" / "pixels", False) and said == ["made"]
    (request,) = target
    export = tmp_path / "export"
    assert request.qcdq == export / "network.qcdq.onnx" and request.options == options
    assert request.qonnx == export / "network.qonnx.onnx"
    assert request.float32 == (export / "network.float32.onnx" if float32 else None)
    assert request.samples.tolist() == [0, 1, 2, 3, 4, 5]
    names = {"qcdq", "qonnx", "samples", "interface"} | ({"float32"} if float32 else set())
    assert set(read_manifest(made.folder)["inputs"]) == names
    build = pipeline.load_build(tmp_path, "pixels")
    assert build.shipped == made.folder / "model.bin" and build.detail == {"n": 5}
    assert read_json(made.folder / "deployment.json")["target"] == "pixels"
    assert pipeline.build(tmp_path, "pixels", options, said.append).cached
    assert not pipeline.build(tmp_path, "pixels", options | {"n": 2}, said.append).cached


@pytest.mark.parametrize("content", ["0", "9"])
@pytest.mark.parametrize(
    ("name", "precision", "stale"),
    [("qcdq", "int8", True), ("qonnx", "int8", True), ("float32", "int8", False),
     ("float32", "fp16", True)],
)  # fmt: skip
def test_a_build_of_an_earlier_network_is_refused(
    tmp_path, exported, target, name, precision, stale, content
):
    pipeline.build(tmp_path, "pixels", {"precision": precision}, lambda line: None)
    exported(name, content=content)
    if not stale:
        assert pipeline.load_build(tmp_path, "pixels").target == "pixels"
        return
    with pytest.raises(UserError, match=r"was built from an earlier network than .*make it again"):
        pipeline.load_build(tmp_path, "pixels")


def test_a_build_that_is_not_there_is_named_with_its_command(tmp_path):
    command = f"lmaunet-deploy build --target ort --run {tmp_path}"
    with pytest.raises(UserError) as raised:
        pipeline.load_build(tmp_path, "ort")
    assert str(raised.value) == f"{tmp_path} has no ort build; make it with: {command}"


def test_the_builds_of_a_run_are_in_alphabetical_order(tmp_path):
    assert pipeline.built_targets(tmp_path) == []
    for name in ("b", "a", "c"):
        Stage(tmp_path, f"build/{name}", {}, {}).write(lambda folder: None)
    (tmp_path / "build" / "half").mkdir()
    assert pipeline.built_targets(tmp_path) == ["a", "b", "c"]


def test_the_graphs_are_written_one_after_the_other(monkeypatch, tmp_path):
    from lmaunet.export import network

    written, said = [], []
    for name in ("float32", "qcdq", "qonnx"):
        monkeypatch.setattr(
            network, f"export_{name}",
            lambda model, image, path, name=name: written.append(
                (name, model, tuple(image.shape), path.name)
            ),
        )  # fmt: skip
    images = np.arange(2 * 1 * 4 * 5, dtype=np.float32).reshape(2, 1, 4, 5)
    export_graphs.write_graphs(
        tmp_path, "float", "quantized", images, lambda *line: said.append(line)
    )
    shape = (1, 1, 4, 5)
    assert written == [
        ("float32", "float", shape, "network.float32.onnx"),
        ("qcdq", "quantized", shape, "network.qcdq.onnx"),
        ("qonnx", "quantized", shape, "network.qonnx.onnx"),
    ]
    assert said == [(share, f"exporting {name}") for share, (*_, name) in
                    zip((0.0, 0.2, 0.4), written, strict=True)]  # fmt: skip
    with np.load(tmp_path / "samples.npz") as samples:
        assert np.array_equal(samples["images"], images)


@pytest.fixture
def quantized_run(monkeypatch, tmp_path, tiny_spec, tiny_data):
    """A run up to its QAT; what an export's checks were given."""
    digest = "d"
    monkeypatch.setattr(DataSource, "load", lambda source, spec, training=None: tiny_data)
    monkeypatch.setattr(pipeline.RunData, "sha256", digest)
    common = {"data_sha256": digest, "spec": tiny_spec.to_json()}
    (tmp_path / "c.pt").write_text("1")

    def qat(folder):
        (folder / "model.pt").write_text("q")
        write_json(folder / "scan.json", [])
        write_json(folder / "qat.json", {})

    def control(folder):
        save_checkpoint(folder / "control.pt", tiny_spec, LMaUNet(tiny_spec))

    for name, own, work in (("qat", {"settings": {"schedule": 1}}, qat),
                            ("control", {"schedule": 1}, control)):  # fmt: skip
        Stage(tmp_path, name, {"checkpoint": tmp_path / "c.pt"}, common | own, 9).write(work)
    given, _ = capture(LMaUNet(tiny_spec), (1, 1, *tiny_spec.input_size))
    monkeypatch.setattr(
        "lmaunet.quant.qat.load_quantized", lambda path: SimpleNamespace(source=given)
    )
    monkeypatch.setattr(export_graphs, "write_graphs", lambda out, *given: calls.append(given))
    calls = []
    good = SimpleNamespace(to_json=lambda: {"name": "good"})
    monkeypatch.setattr(
        "lmaunet.export.agreement.check_exports", lambda out, *given: calls.append(given) or [good]
    )
    return calls


def test_an_export_is_checked_with_its_first_sample(quantized_run, tmp_path, tiny_data, tiny_spec):
    said = []
    made = pipeline.export(tmp_path, PHANTOM, lambda *line: said.append(line))
    (float32, quantized, samples, _), (sample, *networks) = quantized_run
    assert np.array_equal(samples, samples_of(tiny_data)) and len(samples) == 4
    assert np.array_equal(sample, samples[:1]) and networks == [float32, quantized]
    assert float32.spec == tiny_spec and isinstance(float32, LMaUNet)
    assert read_json(made.folder / "export.json") == {"agreements": [{"name": "good"}]}
    interface = read_json(made.folder / "interface.json")
    assert interface["network"] == tiny_spec.to_json()
    assert interface["graph"] == topology_digest(quantized.source)
    assert interface["sha256"] == {
        "checkpoint": sha256(tmp_path / "c.pt"), "quantized": sha256(tmp_path / "qat/model.pt"),
    }  # fmt: skip
    assert "confidence" not in interface and "modalities" not in interface
    assert [share for share, _ in said] == [0.0, 0.6]
    assert set(read_manifest(made.folder)["inputs"]) == {"model", "scan", "control"}
    assert pipeline.export(tmp_path, PHANTOM, SILENT).cached
    assert not pipeline.export(tmp_path, DataSource(None, seed=4), SILENT).cached


def test_an_export_says_what_training_knew_of_dropout_and_missing_images(
    quantized_run, monkeypatch, tmp_path
):
    dropout = Dropout(0.25, 4, 1.5, {})
    known = Modalities(("ct",), 0.0, 0.8, (0.1,))
    monkeypatch.setattr(pipeline, "dropout_of", lambda folder: dropout)
    monkeypatch.setattr(
        pipeline.Modalities, "from_json", lambda noted, channels: known if noted == {} else None
    )
    monkeypatch.setattr(pipeline, "read_json", lambda path: {"modalities": {}})
    interface = read_json(pipeline.export(tmp_path, PHANTOM, SILENT).folder / "interface.json")
    assert interface["confidence"] == dropout.to_json()
    assert interface["modalities"] == known.to_json()


@pytest.mark.parametrize("digest", ["c", "e"])
def test_an_export_of_other_data_is_refused(quantized_run, monkeypatch, tmp_path, digest):
    monkeypatch.setattr(pipeline.RunData, "sha256", digest)
    with pytest.raises(UserError, match="have changed since"):
        pipeline.export(tmp_path, PHANTOM, SILENT)
    assert quantized_run == [] and not Path(tmp_path / "export").exists()
