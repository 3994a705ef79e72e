"""What a target opened is kept while its file stays the same: that of the four latest files."""

from __future__ import annotations

import os

import pytest

from lmaunet.deploy.targets import openvino, ort, trt
from lmaunet.deploy.targets.ort import sessions
from lmaunet.deploy.targets.trt.running import NETWORK
from lmaunet.trt import graph_run


def opened_by(target, monkeypatch):
    """Return what opens a file through a target's cache, and a list of what was opened at last."""
    opened = []

    def note(path, **options):
        opened.append(path.parent.name)
        return object()

    if target is openvino:
        monkeypatch.setattr("lmaunet.cpu.openvino_runtime.compile_model", note)
        return lambda path, changed: openvino._compiled(path, changed, ""), opened
    monkeypatch.setattr("lmaunet.export.reference.open_session", note)
    if target is trt:
        # what is opened is the file's model, rounded as FP16 is
        monkeypatch.setattr("lmaunet.export.reference.read_model", lambda path: path)
        monkeypatch.setattr("lmaunet.trt.half_emulation.emulated", lambda model: model)
        return lambda path, changed: graph_run._session(path, changed, ""), opened
    monkeypatch.setattr("lmaunet.cpu.saturation.runtime_adds_without_saturation", lambda: False)
    return lambda path, changed: sessions._session(path, changed, False), opened


@pytest.mark.parametrize("target", [openvino, ort, trt], ids=lambda t: t.TARGET.name)
def test_the_four_latest_files_are_open_at_a_time(target, tmp_path, monkeypatch):
    """And another version of one is another file."""
    work, opened = opened_by(target, monkeypatch)
    paths = {name: tmp_path / name / "model.onnx" for name in "abcdef"}
    first = {name: work(paths[name], 7) for name in "abcd"}
    assert all(work(paths[name], 7) is first[name] for name in "abcd") and opened == list("abcd")
    work(paths["e"], 7)
    assert all(work(paths[name], 7) is first[name] for name in "dcb") and opened == list("abcde")
    work(paths["a"], 7)
    assert opened == list("abcdea")
    assert work(paths["b"], 8) is not work(paths["b"], 7) and opened == list("abcdeab")


def test_the_graph_of_an_engine_is_opened_again_where_it_has_changed(tmp_path, monkeypatch):
    """And only there."""
    _, opened = opened_by(trt, monkeypatch)
    monkeypatch.setattr("lmaunet.export.reference.run_images", lambda session, images: session)
    path = tmp_path / NETWORK
    path.write_bytes(b"graph")
    first = graph_run.run_graph(path, None)
    assert graph_run.run_graph(path, None) is first and len(opened) == 1
    os.utime(path, ns=(1, path.stat().st_mtime_ns + 1))
    assert graph_run.run_graph(path, None) is not first and len(opened) == 2


def test_a_library_is_tried_once_for_each_version(tmp_path, monkeypatch):
    """Whether it loads is known of the four latest."""
    tried = []

    def load(path):
        tried.append(path[-1])
        if path.endswith("b"):
            raise OSError("invalid ELF header")

    monkeypatch.setattr("ctypes.CDLL", load)
    paths = {name: tmp_path / name for name in "abcde"}
    for _ in range(2):
        assert [sessions._loads(paths[name], 3) for name in "abcd"] == [True, False, True, True]
    assert tried == list("abcd")
    sessions._loads(paths["e"], 3)
    assert (
        sessions._loads(paths["d"], 3) and sessions._loads(paths["c"], 3) and tried == list("abcde")
    )
    assert sessions._loads(paths["a"], 3) and tried == list("abcdea")
    assert sessions._loads(paths["a"], 4) and tried == list("abcdeaa")
