"""The GPU benchmark, as far as a CPU can run it."""

from __future__ import annotations

import json
import sys

import gpu
import pytest
import torch

from lmaunet.net import scan, scan_lanes

CPU = torch.device("cpu")


def run(monkeypatch, *arguments) -> int:
    monkeypatch.setattr(sys, "argv", ["gpu.py", *map(str, arguments)])
    return gpu.main()


def test_a_dry_run_is_marked_as_one(tmp_path, monkeypatch, capsys):
    out = tmp_path / "trial.json"
    arguments = ("--device", "cpu", "--quick", "--repeats", 1, "-o", out)
    assert run(monkeypatch, *arguments) == 0
    content = json.loads(out.read_text())
    assert content["device"] == "cpu" and content["gpu"] == ""
    rows = {(row["part"], row["form"]): row for row in content["rows"]}
    for name in ("lanes", "compiled"):
        row = rows["scan", name]
        assert row["forward_ms"] > 0 and row["forward_backward_ms"] > 0
        assert set(row["relative_differences"]) == {"y", *(f"grad_{n}" for n in gpu.NAMES)}
        assert max(row["relative_differences"].values()) < 1e-5
    assert rows["scan", "mamba-ssm"]["unavailable"]["fix"] == gpu.MAMBA_FIX
    assert rows["training", "torch fp32"]["step_ms"] > 0
    assert rows["latency", "torch fp32"]["median_ms"] > 0
    assert "unavailable" in rows["latency", "torch fp16"]
    assert "unavailable: its kernel runs on a GPU alone" in capsys.readouterr().out


def test_without_a_gpu_it_says_why_and_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert run(monkeypatch, "-o", "gpu.json") == 3
    assert "GPU" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_scan_is_seen_in_the_differences():
    """The mutant: B and C change places."""
    size = (1, 16, 3, 2)

    def wrong(x, dt, A, B, C, D):
        return scan.SelectiveScan.apply(x, dt, A, C, B, D)

    with gpu.chosen(scan_lanes):
        right = gpu.differences(scan.SelectiveScan.apply, size, CPU)
        found = gpu.differences(wrong, size, CPU)
    assert max(right.values()) < 1e-5 < 1e-2 < max(found.values())


def test_a_chosen_form_is_given_back():
    before = scan._form
    with pytest.raises(ZeroDivisionError), gpu.chosen(scan_lanes):
        assert scan._form(None) is scan_lanes
        raise ZeroDivisionError
    assert scan._form is before


def test_bad_usage(monkeypatch, capsys):
    assert run(monkeypatch, "--device", "cpu", "--repeats", 0) == 2
    assert "--repeats 0; expected 1 or more" in capsys.readouterr().err
