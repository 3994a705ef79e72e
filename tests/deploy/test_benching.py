"""The command bench: what a build takes of this machine, measured."""

from __future__ import annotations

import json
import time

import lone_build
import numpy as np
import pytest
from command_line import runner

import lmaunet
from lmaunet.artifacts import Measurement, Unavailable
from lmaunet.deploy import benching, machine, timing
from lmaunet.errors import ToolNotFound, UserError
from lmaunet.stage import read_json

IMAGE_MS = 4.0


@pytest.fixture
def folder(tmp_path):
    return lone_build.make(tmp_path / "run", channels=2)


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    return runner(monkeypatch, capsys)


def use(monkeypatch, **changes):
    monkeypatch.setattr(benching, "get_target", lambda name: lone_build.target(**changes))


class Slow:
    """A network that takes four milliseconds, and a hundred to load; keeps what it was given."""

    def __init__(self):
        self.images = []

    def __call__(self, build, images):
        time.sleep((100 if not self.images else IMAGE_MS) / 1e3)
        self.images.append(images)
        return np.zeros((1, 2, 32, 32), np.float32)


def test_the_time_of_an_image_is_measured(monkeypatch, folder):
    slow = Slow()
    use(monkeypatch, run=slow)
    found = lmaunet.bench(folder)
    # the first, the warm-up, and in each block one that does not count
    counted = timing.BLOCKS * timing.BLOCK_RUNS
    assert len(slow.images) == 1 + timing.WARM_UP_RUNS + counted + timing.BLOCKS
    assert {(i.shape, i.dtype.name) for i in slow.images} == {((1, 2, 32, 32), "float32")}
    assert found.runs == counted
    assert IMAGE_MS <= found.min_ms <= found.latency_ms.value <= found.p90_ms
    assert found.min_ms < 2 * IMAGE_MS and found.first_call_ms.value >= 100
    assert found.spread == found.p90_ms / found.min_ms
    assert found.unsteady == (found.spread > 1.2)
    assert found.latency_ms.provenance == "measured"
    assert {"cpu", "threads", "load_average"} == set(found.conditions)
    assert found.size_mb.value == len(b"weights") / 1e6


def test_memory_is_that_of_this_process_at_its_highest(monkeypatch, folder):
    """What is taken and given back between two images counts; what was before does not."""
    held = np.ones(200_000_000, np.uint8)
    del held

    def run(build, images):
        block = np.ones(60_000_000, np.uint8)
        return np.full((1, 2, 32, 32), block[0], np.float32)

    use(monkeypatch, run=run)
    found = lmaunet.bench(folder)
    before, peak = found.memory_mb, found.peak_memory_mb
    assert before.unit == peak.unit == "MB" and before.value > 10
    assert 55 <= peak.value - before.value < 150


def test_the_words_are_those_of_the_report(monkeypatch, run, folder):
    use(monkeypatch, run=Slow())
    status, out, err = run("bench", "--build", folder)
    assert status == 0, err
    for word in (
        "Latency, minimum", "Latency, 90th percentile", "Load average", "Threads", "CPU",
        "Size of all that ships", "90th percentile to minimum", "pixels on pixels",
    ):  # fmt: skip
        assert word in out
    status, out, err = run("bench", "--build", folder, "--json")
    content = json.loads(out)
    latency = content["latency"]
    assert set(latency) == {"min_ms", "median_ms", "p90_ms", "runs", "spread", "unsteady", "cpu",
                            "threads", "load_average"}  # fmt: skip
    assert content["latency_ms"] == {
        "value": latency["median_ms"], "unit": "ms", "provenance": "measured"
    }  # fmt: skip
    assert content["build"]["sha256"] == read_json(folder / "deployment.json")["sha256"]["shipped"]


@pytest.mark.parametrize(("p90", "unsteady"), [(1.19, False), (1.21, True)])
def test_a_spread_above_a_fifth_is_marked(monkeypatch, run, folder, p90, unsteady):
    times = {"min_ms": 1.0, "median_ms": 1.1, "p90_ms": p90, "runs": 30, **timing.spread(1.0, p90)}
    monkeypatch.setattr(timing, "time_turns", lambda works: {"own": times})
    use(monkeypatch)
    out = run("bench", "--build", folder)[1]
    assert ("UNSTEADY, something else ran" in out) == unsteady == ("1.10 ms, unsteady" in out)
    assert f"minimum {p90}" in out


def test_a_device_of_its_own_is_timed_by_its_target(monkeypatch, run, folder):
    times = {"gpu": "a GPU", "min_ms": 1.0, "median_ms": 1.25, "p90_ms": 1.5, "runs": 100,
             "first_run_ms": 70.0, **timing.spread(1.0, 1.5)}  # fmt: skip
    use(monkeypatch, run=None, time=lambda build, images: times)
    found = lmaunet.bench(folder)
    assert (found.latency_ms.value, found.runs, found.conditions) == (1.25, 100, {"gpu": "a GPU"})
    assert found.first_call_ms == Measurement("first_call_ms", 70.0, "ms", "measured")
    assert isinstance(found.peak_memory_mb, Unavailable)
    assert (
        "peak_memory_mb: the device computes in a process of its own"
        in run("bench", "--build", folder)[1]
    )


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (ToolNotFound("a CUDA GPU", "to time this engine", "get one"), 3, "a CUDA GPU is missing"),
        (UserError("a design for an FPGA"), 2, "a design for an FPGA"),
    ],
)
def test_a_device_that_is_not_here_is_one_line(monkeypatch, run, folder, error, status, text):
    def absent(build, images):
        raise error

    use(monkeypatch, time=absent)
    got, out, err = run("bench", "--build", folder)
    said = [line for line in err.splitlines() if line.startswith("lmaunet-deploy:")]
    assert got == status and len(said) == 1 and text in said[0] and out == ""


@pytest.mark.parametrize(
    ("name", "text"),
    [("nowhere", "nowhere is no folder"), ("run", "it has run/build/pixels"),
     ("run/build/pixels", "model.bin")],
)  # fmt: skip
def test_a_bad_build_is_one_line(run, folder, name, text):
    (folder / "model.bin").write_bytes(b"other")
    status, out, err = run("bench", "--build", name)
    said = [line for line in err.splitlines() if line.startswith("lmaunet-deploy:")]
    assert status == 2 and len(said) == 1 and text in said[0] and out == ""


def test_the_hottest_sensor_of_the_processor_is_read(tmp_path):
    for place, name, value in (
        ("thermal/thermal_zone0", "acpitz", "99000"),
        ("thermal/thermal_zone1", "cpu-thermal", "45500"),
        ("thermal/thermal_zone2", "x86_pkg_temp", "nonsense"), ("hwmon/hwmon0", "nvme", "88000"),
        ("hwmon/hwmon1", "coretemp", "61250"),
    ):  # fmt: skip
        (tmp_path / place).mkdir(parents=True)
        zone = place.startswith("thermal")
        (tmp_path / place / ("type" if zone else "name")).write_text(name + "\n")
        (tmp_path / place / ("temp" if zone else "temp1_input")).write_text(value + "\n")
    found = machine.temperature_c("x", tmp_path)
    assert found == Measurement("x", 61.25, "°C", "measured")
    none = machine.temperature_c("x", tmp_path / "hwmon")
    assert isinstance(none, Unavailable) and none.fix == "run this on the device itself"


def test_a_system_that_tells_no_memory_says_so(tmp_path):
    machine.forget_peak(tmp_path / "none")
    assert isinstance(machine.memory_mb("x", peak=True, process=tmp_path), Unavailable)
    (tmp_path / "status").write_text("Name:\tpython\nVmHWM:\t  2000 kB\nVmRSS:\t  1000 kB\n")
    peak, now = (machine.memory_mb("x", peak=peak, process=tmp_path) for peak in (True, False))
    assert (peak.value, now.value) == (2.048, 1.024)


def test_available_memory_is_the_systems_own_estimate(tmp_path):
    information = tmp_path / "meminfo"
    assert machine.available_bytes(information) is None
    information.write_text("MemTotal: 9 kB\nMemFree: 1 kB\nMemAvailable:   7 kB\nCached: 5 kB\n")
    assert machine.available_bytes(information) == 7 * 1024
    information.write_text("MemAvailable: many\n")
    assert machine.available_bytes(information) is None
