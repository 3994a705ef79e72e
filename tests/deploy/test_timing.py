import itertools
import os

import pytest

from lmaunet.deploy import timing


def test_a_summary_by_hand():
    found = timing.summary([10.0] * 27 + [12.0, 14.0, 30.0])
    assert (found["min_ms"], found["median_ms"], found["runs"]) == (10.0, 10.0, 30)
    assert found["p90_ms"] == pytest.approx(11.8)
    assert found["spread"] == pytest.approx(1.18) and not found["unsteady"]


@pytest.mark.parametrize(("p90", "unsteady"), [(1.2, False), (1.21, True), (12.0, True)])
def test_a_spread_above_a_fifth_is_unsteady(p90, unsteady):
    assert timing.spread(1.0, p90) == {"spread": p90, "unsteady": unsteady}


def test_turns_are_taken_in_blocks_whose_first_run_does_not_count(monkeypatch):
    calls = []
    clock = itertools.count()
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(clock) / 1e3)
    works = {name: lambda name=name: calls.append(name) for name in ("own", "float32")}
    found = timing.time_turns(works)
    runs = timing.BLOCKS * timing.BLOCK_RUNS
    assert all(
        times["runs"] == runs and times["median_ms"] == pytest.approx(1.0)
        for times in found.values()
    )
    # so that what slows the machine for a while slows both
    blocks = [name for name, _ in itertools.groupby(calls[2 * timing.WARM_UP_RUNS :])]
    assert blocks == ["own", "float32"] * timing.BLOCKS
    assert len(calls) == 2 * (timing.WARM_UP_RUNS + runs + timing.BLOCKS)


def test_the_conditions_of_a_time(monkeypatch):
    monkeypatch.setattr(os, "getloadavg", lambda: (3.14159, 9.0, 9.0))
    found = timing.conditions()
    assert found["load_average"] == 3.14
    assert found["threads"] == len(os.sched_getaffinity(0)) and found["cpu"]
    # this process may have fewer cores than another one
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5, 8} if pid == 0 else {1})
    assert timing.conditions()["threads"] == 3


def test_against_fp32():
    own = timing.summary([2.0] * 10)
    beside = timing.beside_float32(own, timing.summary([5.0] * 10), 0.5, 2.0, "FP32 in a runtime")
    assert (beside["speed_up"], beside["compression"]) == (2.5, 4.0)
    assert (beside["median_ms"], beside["size_mb"], beside["unsteady"]) == (5.0, 2.0, False)


def test_a_time_is_the_median_of_thirty_after_five_that_warm_up():
    assert (timing.WARM_UP_RUNS, timing.BLOCKS * timing.BLOCK_RUNS) == (5, 30)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("vendor_id\t: X\nmodel name\t: A CPU: 3 GHz \nmodel name\t: another\n", "A CPU: 3 GHz"),
        ("model\t\t: 7\nthe model name\t: none\n", "a processor"),
        (None, "a processor"),
    ],
)
def test_a_cpu_is_called_as_the_system_calls_it(tmp_path, monkeypatch, text, name):
    """The first one's whole name; another system has other words for it."""
    information = tmp_path / "cpuinfo"
    if text is not None:
        information.write_text(text)
    monkeypatch.setattr(timing, "Path", lambda place: information)
    monkeypatch.setattr(timing.platform, "processor", lambda: "a processor")
    assert timing.cpu_model() == name
    monkeypatch.setattr(timing.platform, "processor", lambda: "")
    monkeypatch.setattr(timing.platform, "machine", lambda: "a machine")
    assert timing.cpu_model() == {"a processor": "a machine"}.get(name, name)


@pytest.mark.parametrize(("own", "unsteady"), [(1.0, False), (1.21, True)])
def test_what_is_said_beside_fp32_is_of_fp32(own, unsteady):
    """Its times, not those of the network that it is compared with."""
    keys = ("min_ms", "median_ms", "p90_ms", "runs", "spread")
    theirs = dict(zip(keys, (2.0, 3.0, 5.0, 7, 11.0), strict=True)) | {"unsteady": unsteady}
    ours = dict.fromkeys(keys, own) | {"unsteady": not unsteady}
    beside = timing.beside_float32(ours, theirs, 4.0, 14.0, "FP32")
    assert beside == theirs | {
        "size_mb": 14.0, "form": "FP32", "speed_up": 3.0 / own, "compression": 3.5,
    }  # fmt: skip


def test_a_work_warms_up_before_another_is_timed(monkeypatch):
    calls = []
    monkeypatch.setattr(timing, "BLOCKS", 1)
    monkeypatch.setattr(timing, "BLOCK_RUNS", 2)
    monkeypatch.setattr(timing, "WARM_UP_RUNS", 3)
    timing.time_turns({name: lambda name=name: calls.append(name) for name in "ab"})
    assert calls == [*"aaabbb", *"aaabbb"]
