"""Data are loaded where their pixels are needed, and a changed file is never passed over."""

from __future__ import annotations

import dataclasses
import os
import time

import numpy as np
import pytest

from lmaunet.deploy import run_data
from lmaunet.deploy.run_data import NOTE, RunData, fingerprint
from lmaunet.deploy.runs import DataSource
from lmaunet.errors import UserError
from lmaunet.stage import read_json


@pytest.fixture
def place(tmp_path):
    """A data set of two halves, with a nested file that belongs to nothing."""
    (tmp_path / "run").mkdir()
    folder = tmp_path / "set"
    (folder / "notes").mkdir(parents=True)
    (folder / "notes" / "read.me").write_text("1")
    rng = np.random.default_rng(0)
    for half, patient in (("train", 1), ("val", 2)):
        label = np.zeros((4, 32, 32), np.uint8)
        label[:, 8:20, 8:20] = 1
        np.savez(
            folder / f"x_{half}.npz", image=rng.normal(size=(4, 32, 32)).astype(np.float32),
            label=label, patient=np.full(4, patient), frame=np.ones(4, int), slice=np.arange(4),
        )  # fmt: skip
    return tmp_path


@pytest.fixture
def data(place, tiny_spec):
    spec = tiny_spec.replace(classes=2)
    return lambda path="set": RunData(place / "run", DataSource(place / path), spec)


@pytest.fixture
def loads(monkeypatch):
    """How often data were loaded."""
    count = []
    load = DataSource.load
    monkeypatch.setattr(
        DataSource, "load", lambda s, spec, known: count.append(1) or load(s, spec, known)
    )
    return count


def note(data):
    first = data()
    digest = first.sha256
    first.remember()
    return digest


@pytest.mark.parametrize("path", ["set", "set/x_train.npz"])
def test_the_digest_of_noted_files_needs_no_loading(data, loads, path):
    first = data(path)
    digest = first.sha256
    first.remember()
    assert loads == [1] and fingerprint(first.load()) == digest
    again = data(path)
    assert again.sha256 == digest and loads == [1]
    assert fingerprint(again.load()) == digest and loads == [1, 1]


def edit_in_place(path):
    """Change one byte; size, inode and time of the last change stay."""
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    with path.open("r+b") as stream:
        stream.write(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (after.st_size, after.st_ino, after.st_mtime_ns) == (
        before.st_size, before.st_ino, before.st_mtime_ns
    )  # fmt: skip


@pytest.mark.parametrize("hashed", [True, False], ids=["content", "times"])
@pytest.mark.parametrize(
    "change",
    [
        lambda folder: edit_in_place(folder / "notes" / "read.me"),
        lambda folder: (folder / "notes" / "read.me").rename(folder / "notes" / "another"),
        lambda folder: (folder / "new").write_text(""),
        lambda folder: (folder / "notes" / "read.me").unlink(),
    ],
    ids=["edited", "renamed", "added", "removed"],
)
def test_any_change_of_a_file_loads_the_data_again(data, loads, place, monkeypatch, hashed, change):
    if not hashed:
        monkeypatch.setattr(run_data, "HASHED_BYTES", 0)
        monkeypatch.setattr(run_data, "SETTLED_SECONDS", -60.0)
    digest = note(data)
    assert data().sha256 == digest and loads == [1]
    change(place / "set")
    changed = data()
    assert changed.sha256 == digest and loads == [1, 1]  # the pixels are the same
    changed.remember()
    assert data().sha256 == digest and loads == [1, 1]


@pytest.mark.parametrize("beyond", [0, 1])
def test_files_are_told_by_content_up_to_a_gibibyte(data, place, monkeypatch, beyond):
    assert run_data.HASHED_BYTES == 2**30 and run_data.SETTLED_SECONDS == 5.0
    size = sum(path.stat().st_size for path in (place / "set").rglob("*") if path.is_file())
    monkeypatch.setattr(run_data, "HASHED_BYTES", size - beyond)
    monkeypatch.setattr(run_data, "SETTLED_SECONDS", -60.0)
    read = []
    monkeypatch.setattr(run_data, "sha256", lambda path: read.append(path.name) or path.name)
    assert run_data._digest_files(DataSource(place / "set"))
    assert sorted(read) == ([] if beyond else ["read.me", "x_train.npz", "x_val.npz"])


def test_changed_pixels_have_another_digest(data, place, loads):
    digest = note(data)
    content = dict(np.load(place / "set" / "x_val.npz"))
    content["image"] = content["image"] + 1 * (content["slice"] == 2)[:, None, None]
    content["image"][2, 0, 0] = 5
    np.savez(place / "set" / "x_val.npz", **content)
    assert data().sha256 != digest and loads == [1, 1]


def test_files_that_were_written_just_now_are_not_told_by_their_times(data, loads, monkeypatch):
    monkeypatch.setattr(run_data, "HASHED_BYTES", 0)
    note(data)
    assert data().sha256 and loads == [1, 1]
    later = time.time() + 60
    monkeypatch.setattr(run_data.time, "time", lambda: later)
    note(data)
    assert data().sha256 and loads == [1, 1, 1]


@pytest.mark.parametrize("what", ["code", "reader", "network", "seed"])
def test_another_program_or_network_loads_the_data_again(data, loads, monkeypatch, what, place):
    note(data)
    other = data()
    if what == "code":
        monkeypatch.setattr(run_data, "source_digest", lambda package: f"new {package}")
    elif what == "reader":
        monkeypatch.setattr(run_data, "_versions", lambda: {"numpy": "9"})
    elif what == "network":
        other.spec = other.spec.replace(input_size=(48, 48))
    else:
        other.source = DataSource(place / "set", seed=3)
    assert other.sha256 and loads == [1, 1]


def test_data_that_change_while_a_command_runs_are_refused(data, place):
    note(data)
    again = data()
    assert again.sha256
    content = dict(np.load(place / "set" / "x_val.npz"))
    content["label"][0, 0, 0] = 1
    np.savez(place / "set" / "x_val.npz", **content)
    with pytest.raises(UserError, match="changed while the command ran; run it again"):
        again.load()


def test_files_that_change_while_they_are_loaded_are_not_noted(data, place, monkeypatch):
    load = DataSource.load

    def slow(source, spec, training):
        found = load(source, spec, training)
        (place / "set" / "late").write_text("x")
        return found

    monkeypatch.setattr(DataSource, "load", slow)
    note(data)
    assert not (place / "run" / NOTE).exists()


def test_a_damaged_note_counts_for_nothing(data, place, loads):
    digest = note(data)
    for content in ("", "[]", "{", '{"files": 1}', '{"files": null, "data_sha256": 3}'):
        (place / "run" / NOTE).write_text(content)
        assert data().sha256 == digest
    assert len(loads) == 6
    note(data)
    assert read_json(place / "run" / NOTE)["data_sha256"] == digest


def test_links_are_followed_and_a_link_back_ends(data, place, loads):
    (place / "set" / "loop").symlink_to(place / "set")
    outside = place / "outside"
    outside.mkdir()
    (outside / "file").write_text("1")
    (place / "set" / "linked").symlink_to(outside)
    note(data)
    assert data().sha256 and loads == [1]
    (outside / "file").write_text("2")
    assert data().sha256 and loads == [1, 1]


def test_several_processes_write_one_note(data, place, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    note(data)
    assert not (place / "run" / NOTE).exists()


def test_the_fingerprint_of_data_covers_what_a_score_depends_on(tiny_data):
    whole = fingerprint(tiny_data)
    assert fingerprint(dataclasses.replace(tiny_data, notes=("another note",))) == whole
    val = tiny_data.val
    others = [
        {"spacing_mm": (1.0, 2.0, 3.0)},
        {"case_spacing_mm": {"a": (1.0, 2.0, 3.0)}},
        {"case_spacing_mm": {"a": (1.0, 3.0, 2.0)}},
        {"classes": (*tiny_data.classes[:-1], "renamed")},
        {"val": dataclasses.replace(val, cases=np.full(len(val), "another"))},
        {"val": dataclasses.replace(val, labels=np.flip(val.labels, 1).copy())},
        {"train": dataclasses.replace(tiny_data.train, images=tiny_data.train.images + 1)},
    ]
    found = {fingerprint(dataclasses.replace(tiny_data, **change)) for change in others}
    assert len(found | {whole}) == len(others) + 1


@pytest.mark.parametrize("half", ["train", "val"])
@pytest.mark.parametrize("what", ["cases", "z", "images", "labels"])
def test_the_fingerprint_covers_every_slice_of_both_halves(tiny_data, half, what):
    """The last value of each of what they hold."""
    part = getattr(tiny_data, half)
    values = getattr(part, what).copy()
    last = values.reshape(-1)
    last[-1] = "zz" if what == "cases" else last[-1] + (1000 if what == "z" else 1)
    other = dataclasses.replace(tiny_data, **{half: dataclasses.replace(part, **{what: values})})
    assert fingerprint(other) != fingerprint(tiny_data)


def test_a_class_map_is_one_of_the_files_where_it_is_one(place):
    """One of those that the program brings along is none."""
    source = DataSource(place / "set", place / "map.json")
    without = run_data._digest_files(DataSource(place / "set"))
    assert run_data._digest_files(source) == without
    found = set()
    for content in ("1", "2"):
        (place / "map.json").write_text(content)
        found.add(run_data._digest_files(source))
    assert len(found | {without}) == 3
    assert run_data._digest_files(DataSource(None, place / "map.json")) == "phantom"


@pytest.mark.parametrize("name", ["x_train.npz", "x_val.npz", "x.npz"])
def test_a_file_stands_for_the_files_that_begin_like_it(place, name):
    """Both halves of a pair, and no folder."""
    for other in ("x.npz", "y_train.npz", "x_train_npz"):
        (place / "set" / other).write_text("1")
    (place / "set" / "x_folder").mkdir()
    found = {path.name for path in run_data._files_of(place / "set" / name)}
    pair = {"x_train.npz", "x_val.npz", "x_train_npz"}
    assert found == ({"x.npz"} if name == "x.npz" else pair | {"x.npz"})


def test_every_file_below_a_folder_is_one_of_the_data(place):
    """Also behind a folder that was seen before, whichever comes first."""
    for name in "abcdefgh":
        (place / "set" / name).mkdir()
        (place / "set" / name / "file").write_text(name)
        (place / "set" / name / "back").symlink_to(place / "set")
    found = sorted(str(p.relative_to(place / "set")) for p in run_data._files_of(place / "set"))
    own = [f"{name}/file" for name in "abcdefgh"]
    assert found == sorted([*own, "notes/read.me", "x_train.npz", "x_val.npz"])


def test_a_folder_that_cannot_be_read_leaves_the_files_unknown(data, monkeypatch):
    """They are loaded each time, and the error comes from there."""

    def walk(path, followlinks, onerror):
        onerror(PermissionError(13, "Permission denied"))
        return iter(())

    monkeypatch.setattr(run_data.os, "walk", walk)
    assert data()._files_digest() is None


def test_a_reader_that_is_not_installed_has_no_version(monkeypatch):
    monkeypatch.setattr(run_data, "READERS", ("numpy", "no-such-package"))
    assert run_data._versions() == {
        "python": run_data.platform.python_version(), "numpy": np.__version__,
    }  # fmt: skip
