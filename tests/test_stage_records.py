"""What a stage left: read back, told from damage, and digested."""

import json
import os

import numpy as np
import pytest

from lmaunet.errors import UserError
from lmaunet.stage import (
    read_json,
    read_manifest,
    record_of,
    sha256,
    write_json,
)


def test_manifests_of_other_versions_and_damaged_ones(tmp_path):
    folder = tmp_path / "qat"
    with pytest.raises(UserError, match="holds no finished 'qat' stage; run that stage first"):
        read_manifest(folder)
    folder.mkdir()
    write_json(folder / "manifest.json", {"schema": 0})
    with pytest.raises(UserError, match="schema 0, expected 1: another version wrote this run"):
        read_manifest(folder)
    whole = {"schema": 1, "key": "", "options": {}, "outputs": {}}
    write_json(folder / "manifest.json", whole | {"inputs": {"model": []}})
    with pytest.raises(UserError, match=r"is damaged .no usable 'inputs'"):
        read_manifest(folder)
    write_json(folder / "manifest.json", whole | {"inputs": {"model": {}}})
    assert read_manifest(folder)["inputs"] == {"model": {}}
    (folder / "manifest.json").write_text(json.dumps({"schema": 1})[:-3])
    with pytest.raises(UserError, match="is damaged"):
        read_manifest(folder)


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "{}",
        "[]",
        "3",
        '{"scores": []}',
        '{"scores": {"a": null}}',
        '{"scores": ' + "7" * 6000 + "}",
    ],
)
def test_a_record_that_is_another_is_damage_and_no_fault(tmp_path, content):
    folder = tmp_path / "measure" / "ort"
    folder.mkdir(parents=True)
    (folder / "measure.json").write_text(content)
    command = f"lmaunet-deploy measure --target ort --run {tmp_path}"
    with (
        pytest.raises(UserError, match="ort is damaged: its records are not") as raised,
        record_of(folder),
    ):
        len(read_json(folder / "measure.json")["scores"]["a"])
    assert str(raised.value).endswith(f"run the stage again: {command}")


@pytest.mark.parametrize("error", [UserError("as it is"), OSError("no disk"), MemoryError()])
def test_what_is_no_damage_to_a_record_passes_through(tmp_path, error):
    with pytest.raises(type(error)) as raised, record_of(tmp_path / "qat"):
        raise error
    assert raised.value is error


@pytest.mark.parametrize(
    "error", [KeyError, IndexError, TypeError, AttributeError, ValueError, EOFError]
)
def test_what_another_record_raises_is_damage(tmp_path, error):
    match = f"qat is damaged.*{error.__name__}: .*run the stage again: lmaunet-deploy qat"
    with pytest.raises(UserError, match=match), record_of(tmp_path / "qat"):
        raise error("x")


def test_arrays_that_are_damaged_are_damage(tmp_path):
    path = tmp_path / "samples.npz"
    np.savez(path, images=np.arange(9))
    whole = path.read_bytes()
    for spoilt in (whole[:40], whole[:-30], whole.replace(b"NUMPY", b"NUMBY"), b"", b"no"):
        path.write_bytes(spoilt)
        with pytest.raises(UserError, match="is damaged: its records are not"), record_of(tmp_path):
            np.load(path)["images"]


def folder_of(path, **texts):
    for name, text in texts.items():
        file = path / name.replace("_", "/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return path


def test_a_folder_is_digested_with_the_paths_in_it(tmp_path):
    """Not the names alone, and no content may pass for a part of a name."""
    folders = [
        folder_of(tmp_path / "1", a_x="one", b_x="two"),
        folder_of(tmp_path / "2", a_x="one", c_x="two"),
        folder_of(tmp_path / "3", ax="one", bx="two"),
        folder_of(tmp_path / "4", a="xone", b="xtwo"),
        folder_of(tmp_path / "5", a="xonebxtwo"),
    ]
    assert len({sha256(folder) for folder in folders}) == len(folders)
    assert sha256(folders[0]) == sha256(folder_of(tmp_path / "6", b_x="two", a_x="one"))


def test_a_name_that_is_no_text_can_be_digested(tmp_path):
    (tmp_path / os.fsdecode(b"a\xff.txt")).write_text("x")
    assert len(sha256(tmp_path)) == 64
