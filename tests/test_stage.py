import json
from pathlib import Path

import pytest

from lmaunet.errors import UserError
from lmaunet.stage import Stage, command_of, read_manifest, read_stage, sha256, write_json


@pytest.fixture
def stage(tmp_path):
    source = tmp_path / "in.txt"
    source.write_text("in")
    return Stage(tmp_path / "run", "train", {"data": source}, {"epochs": 3}, seed=1)


def put(text):
    return lambda folder: (folder / "out.txt").write_text(text) and None


def test_a_stage_writes_a_manifest_and_is_current(stage):
    assert not stage.is_current()
    folder = stage.write(put("one"))
    manifest = read_manifest(folder)
    assert manifest["options"] == {"epochs": 3} and manifest["seed"] == 1
    assert manifest["outputs"] == {"out.txt": sha256(folder / "out.txt")}
    assert manifest["inputs"]["data"]["sha256"] == sha256(stage.inputs["data"])
    assert "python" in manifest["tools"] and stage.is_current()
    assert not stage.partial.exists()


def test_a_change_of_input_or_option_makes_it_stale(stage):
    stage.write(put("one"))
    assert not Stage(stage.run, stage.name, stage.inputs, {"epochs": 4}, 1).is_current()
    assert not Stage(stage.run, stage.name, stage.inputs, {"epochs": 3}, 2).is_current()
    stage.inputs["data"].write_text("other")
    assert not stage.is_current()


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_a_killed_stage_leaves_the_old_result(stage, error):
    folder = stage.write(put("old"))

    def fail(partial):
        (partial / "out.txt").write_text("half")
        raise error

    with pytest.raises(BaseException):  # noqa: B017
        stage.write(fail)
    assert (folder / "out.txt").read_text(encoding="utf-8") == "old"
    assert stage.is_current() and not stage.partial.exists()


def test_an_interrupted_stage_resumes_only_with_the_same_key(stage):
    def stop(partial):
        (partial / "step.txt").write_text("1")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stage.write(stop, resume=True)
    seen = []
    other = Stage(stage.run, stage.name, stage.inputs, {"epochs": 9}, 1)
    with pytest.raises(KeyboardInterrupt):
        stage.write(stop, resume=True)
    stage.write(lambda f: seen.append((f / "step.txt").exists()), resume=True)
    with pytest.raises(KeyboardInterrupt):
        stage.write(stop, resume=True)
    other.write(lambda f: seen.append((f / "step.txt").exists()), resume=True)
    assert seen == [True, False]


def spoil_missing(folder):
    (folder / "out.txt").unlink()


def spoil_edited(folder):
    (folder / "out.txt").write_text("edited")


def spoil_manifest(folder):
    path = folder / "manifest.json"
    path.write_bytes(path.read_bytes()[:-9])


def spoil_keys(folder):
    (folder / "manifest.json").write_text('{"schema": 1}')


def spoil_folder(folder):
    (folder / "manifest.json").unlink()
    (folder / "manifest.json").mkdir()


@pytest.mark.parametrize(
    "spoil", [spoil_missing, spoil_edited, spoil_manifest, spoil_keys, spoil_folder]
)
def test_a_damaged_result_is_refused_and_made_again(stage, spoil):
    folder = stage.write(put("one"))
    assert read_stage(folder) == read_manifest(folder)
    spoil(folder)
    with pytest.raises(UserError, match=r"run the stage again: lmaunet-deploy train --data DIR"):
        read_stage(folder)
    assert not stage.is_current()
    stage.write(put("one"))
    assert stage.is_current() and (folder / "out.txt").read_text(encoding="utf-8") == "one"


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("qat", "qat --ckpt FILE --run run"),
        ("control", "qat --ckpt FILE --run run"),
        ("export", "export --run run"),
        ("build/ort", "build --target ort --run run"),
        ("measure/ort", "measure --target ort --run run"),
        ("measure/reference", "measure --run run"),
    ],
)
def test_the_command_that_makes_a_stage_exists(name, command):
    assert command_of(Path("run") / name) == f"lmaunet-deploy {command}"


def test_a_stage_that_is_refused_at_its_start_leaves_nothing(stage):
    def refuse(partial):
        raise UserError("bad")

    with pytest.raises(UserError):
        stage.write(refuse, resume=True)
    assert not stage.run.exists()
    stage.run.mkdir()
    with pytest.raises(UserError):
        stage.write(refuse, resume=True)
    assert list(stage.run.iterdir()) == []


def test_a_missing_input_is_named(stage):
    stage.inputs["data"].unlink()
    with pytest.raises(UserError, match=r"train: data .*in.txt does not exist"):
        stage.key()


def test_manifests_of_other_versions_and_damaged_ones(tmp_path):
    folder = tmp_path / "qat"
    with pytest.raises(UserError, match="holds no finished 'qat' stage; run that stage first"):
        read_manifest(folder)
    folder.mkdir()
    write_json(folder / "manifest.json", {"schema": 0})
    with pytest.raises(UserError, match="schema 0, expected 1: another version wrote this run"):
        read_manifest(folder)
    (folder / "manifest.json").write_text(json.dumps({"schema": 1})[:-3])
    with pytest.raises(UserError, match="is damaged"):
        read_manifest(folder)
