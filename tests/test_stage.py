import dataclasses
import errno
import itertools
import json
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest

from lmaunet import exchange
from lmaunet.errors import UserError
from lmaunet.stage import (
    Stage,
    command_of,
    read_json,
    read_manifest,
    read_stage,
    recover_run,
    sha256,
    tool_versions,
    write_json,
    write_texts,
)


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


def write_old_and_new(place, killed_at, without_exchange):
    """Write one result over another in a child that is killed at its n-th change of a file.

    Returns whether it was; operations are counted where Python's audit hooks announce them,
    before they happen.
    """
    source = place / "in.txt"
    source.write_text("in")
    Stage(place / "run", "train", {"in": source}, {"epochs": 1}, 1).write(two_files("old"))
    child = os.fork()
    if not child:
        count = 0

        def kill(event, arguments):
            nonlocal count
            changes = event in ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate")
            if event == "open":
                changes = isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
            if changes:
                count += 1
                if count == killed_at:
                    os.kill(os.getpid(), signal.SIGKILL)

        try:
            if without_exchange:
                exchange._renameat2 = lambda: None
            new = Stage(place / "run", "train", {"in": source}, {"epochs": 2}, 1)
            sys.addaudithook(kill)
            new.write(two_files("new"), resume=True)
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def two_files(text):
    def work(folder):
        (folder / "out.txt").write_text(text)
        (folder / "more").mkdir(exist_ok=True)
        (folder / "more" / "out.txt").write_text(text * 2)

    return work


@pytest.mark.parametrize("without_exchange", [False, True], ids=["exchange", "two-renames"])
def test_a_kill_at_any_change_of_a_file_loses_neither_result(tmp_path, without_exchange):
    """SIGKILL before each; then a reader finds the old or the new one, and the same command ends
    with the new one, byte for byte, with nothing left beside it."""
    outcomes = set()
    for killed_at in itertools.count(1):
        place = tmp_path / str(killed_at)
        place.mkdir()
        killed = write_old_and_new(place, killed_at, without_exchange)
        run = place / "run"
        recover_run(run)
        found = read_stage(run / "train")["options"]["epochs"]
        text = {1: "old", 2: "new"}[found]
        assert (run / "train" / "out.txt").read_text(encoding="utf-8") == text
        assert (run / "train" / "more" / "out.txt").read_text(encoding="utf-8") == text * 2
        outcomes.add(text)
        stage = Stage(run, "train", {"in": place / "in.txt"}, {"epochs": 2}, 1)
        if not stage.is_current():
            stage.write(two_files("new"), resume=True)
        stage.clear()
        assert stage.is_current()
        assert [p.name for p in run.iterdir() if p.name != ".train.old"] == ["train"]
        inside = {str(p.relative_to(run / "train")) for p in (run / "train").rglob("*")}
        assert inside == {"manifest.json", "more", "more/out.txt", "out.txt"}
        assert (run / "train" / "out.txt").read_text(encoding="utf-8") == "new"
        if not killed:
            break
    assert outcomes == {"old", "new"} and killed_at > 12


def test_json_that_is_nested_too_deeply_is_damaged(stage):
    folder = stage.write(put("one"))
    (folder / "manifest.json").write_text("[" * 100_000 + "]" * 100_000)
    with pytest.raises(ValueError, match=r"manifest\.json is nested too deeply"):
        read_json(folder / "manifest.json")
    with pytest.raises(UserError, match=r"is damaged .*nested too deeply.*run the stage again"):
        read_stage(folder)
    assert not stage.is_current()


def test_what_was_finished_but_not_moved_is_not_made_again(stage):
    """Killed between the last file and the move: hours of training are not thrown away."""
    finished = stage.write(put("one"))
    finished.rename(stage.partial)
    assert not stage.is_current()
    stage.write(lambda folder: pytest.fail("made again"), resume=True)
    assert stage.is_current() and not stage.partial.exists()
    finished.rename(stage.partial)
    (stage.partial / "out.txt").write_text("edited")
    stage.write(put("one"), resume=True)
    assert stage.is_current()


def test_the_old_result_stands_until_the_new_one_takes_its_place(stage, monkeypatch):
    """Also where the system exchanges nothing: what is moved is moved whole, by renaming."""
    monkeypatch.setattr(exchange, "_renameat2", lambda: None)
    folder = stage.write(put("old"))
    renamed = []
    rename = Path.rename
    monkeypatch.setattr(
        Path, "rename", lambda p, target: renamed.append((p.name, target.name)) or rename(p, target)
    )
    monkeypatch.setattr(shutil, "move", None)
    monkeypatch.setattr(shutil, "copytree", None)
    other = Stage(stage.run, stage.name, stage.inputs, {"epochs": 4}, 1)

    def work(partial):
        assert (folder / "out.txt").read_text(encoding="utf-8") == "old" and stage.is_current()
        put("new")(partial)

    other.write(work)
    assert renamed == [("train", ".train.old"), (".train.partial", "train")]


def test_a_result_is_on_the_disk_before_it_takes_its_place(stage, monkeypatch):
    """All of its files and folders; else a power loss after the rename leaves empty ones."""
    stage.write(two_files("old"))
    settled, before = [], []
    fsync, swapped = os.fsync, exchange.exchange
    monkeypatch.setattr(
        os,
        "fsync",
        lambda n: (settled.append(str(Path(f"/proc/self/fd/{n}").readlink())), fsync(n)),
    )
    monkeypatch.setattr(
        exchange, "exchange", lambda a, b: (before.extend(settled), swapped(a, b))[1]
    )
    new = dataclasses.replace(stage, options={"epochs": 2})
    new.write(two_files("new"))
    names = ["", "out.txt", "manifest.json", "more", "more/out.txt"]
    assert sorted(before) == sorted(str(stage.partial / name) for name in names)


@pytest.mark.parametrize(
    ("number", "text"), [(errno.EINVAL, "new"), (errno.ENOSPC, "old"), (errno.EIO, "old")]
)
def test_a_disk_that_refuses_late_leaves_the_old_result(stage, monkeypatch, number, text):
    stage.write(two_files("old"))

    def refuse(handle):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    new = dataclasses.replace(stage, options={"epochs": 2})
    if text == "new":
        new.write(two_files("new"))
    else:
        with pytest.raises(OSError, match=os.strerror(number)):
            new.write(two_files("new"))
    assert (stage.folder / "out.txt").read_text() == text and read_stage(stage.folder)


def test_json_is_moved_into_place_and_never_copied_over_the_old(tmp_path, monkeypatch):
    """An old file keeps its inode until the new one is there whole: no reader sees half of one."""
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    with path.open(encoding="utf-8") as old:
        write_json(path, {"b": [2] * 10_000})
        assert json.load(old) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_of_several_texts_none_is_replaced_where_one_cannot_be_written(tmp_path, monkeypatch):
    old = {tmp_path / name: f"old {name}" for name in ("a", "b", "c")}
    write_texts(old)
    write = Path.write_text

    def full(path, text, **options):
        if path.name == ".c.partial":
            raise OSError(28, "No space left on device")
        return write(path, text, **options)

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space"):
        write_texts({path: "new" for path in old})
    assert {path: path.read_text(encoding="utf-8") for path in tmp_path.iterdir()} == old


def test_another_version_of_a_tool_makes_a_result_stale(stage, monkeypatch):
    stage.write(put("one"))
    versions = tool_versions()
    assert versions["numpy"]
    monkeypatch.setattr("lmaunet.stage.tool_versions", lambda: versions | {"numpy": "1.0"})
    assert not stage.is_current()


def test_another_source_of_a_package_makes_a_result_stale(stage, monkeypatch):
    coded = Stage(stage.run, stage.name, stage.inputs, stage.options, 1, code=("lmaunet.scan",))
    coded.write(put("one"))
    assert coded.is_current()
    monkeypatch.setattr("lmaunet.stage.source_digest", lambda package: f"other {package}")
    assert not coded.is_current()


def test_a_result_of_other_tools_is_of_the_same_inputs(stage, monkeypatch):
    """But none of other inputs, options or another seed, and nothing damaged."""
    assert not stage.is_of_same_inputs()
    folder = stage.write(put("one"))
    monkeypatch.setattr("lmaunet.stage.tool_versions", lambda: {"numpy": "1.0"})
    assert not stage.is_current() and stage.is_of_same_inputs()
    for changes in ({"options": {"epochs": 4}}, {"seed": 2}):
        assert not dataclasses.replace(stage, **changes).is_of_same_inputs()
    other = dataclasses.replace(stage, options={"epochs": 4, "more": 1})
    assert other.is_of_same_inputs(("epochs", "more"))
    assert not other.is_of_same_inputs(("epochs",))
    (folder / "out.txt").write_text("damaged")
    assert not stage.is_of_same_inputs()
    put("one")(folder)
    assert stage.is_of_same_inputs()
    stage.inputs["data"].write_text("other")
    assert not stage.is_of_same_inputs()


def test_work_that_is_thrown_away_is_marked_so_first(stage, monkeypatch):
    """What a kill leaves of it is not gone on from by the command that it belonged to."""

    def stop(partial):
        put("half")(partial)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stage.write(stop, resume=True)
    other = Stage(stage.run, stage.name, stage.inputs, {"epochs": 9}, 1)
    with monkeypatch.context() as killed:
        killed.setattr(shutil, "rmtree", stop)
        with pytest.raises(BaseException):  # noqa: B017
            other.write(put("new"), resume=True)
    seen = []
    stage.write(lambda folder: seen.append((folder / "out.txt").exists()), resume=True)
    assert seen == [False]
