"""A bench says on which device it was measured, and of which files."""

from __future__ import annotations

import hashlib
import platform

import lone_build
import pytest

import lmaunet
from lmaunet.deploy import benching, machine, timing
from lmaunet.deploy.device import instructions


def test_a_bench_names_the_files_and_the_device(monkeypatch, tmp_path):
    folder = lone_build.make(tmp_path / "run", channels=2)
    times = {"min_ms": 1.0, "median_ms": 1.1, "p90_ms": 1.2, "runs": 30, **timing.spread(1.0, 1.2)}
    monkeypatch.setattr(timing, "time_turns", lambda works: {"own": times})
    monkeypatch.setattr(benching, "get_target", lambda name: lone_build.target())
    found = lmaunet.bench(folder).to_json()
    names = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    assert set(found["files"]) == names - {"manifest.json"}
    for name, digest in found["files"].items():
        assert digest == hashlib.sha256((folder / name).read_bytes()).hexdigest()
    assert found["build"]["sha256"] in found["files"].values()
    assert machine.system().keys() <= found["device"].keys()
    assert found["device"]["architecture"] == platform.machine()
    assert found["device"]["versions"]["python"] == platform.python_version()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("flags\t\t: fpu avx2 avx512f avx512_vnni\n", ["avx2", "avx512f", "avx512_vnni"]),
        ("Features\t: fp asimd asimddp\n", ["asimd", "asimddp"]),
        ("flags : avx512_vnnix\n", []),  # a part of a name is no instruction set
        ("model name : none\n", None),
    ],
)
def test_instructions_are_read_on_either_architecture(tmp_path, text, expected):
    (tmp_path / "cpuinfo").write_text(text)
    assert instructions(tmp_path / "cpuinfo") == expected


def test_unknown_instructions_are_none(tmp_path):
    assert instructions(tmp_path / "absent") is None
