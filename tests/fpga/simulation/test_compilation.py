"""A design is compiled once, whoever asks for it at the same time."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from lmaunet.errors import ToolNotFound
from lmaunet.fpga.operators import width_converter
from lmaunet.fpga.simulation import compilation

MODULE = width_converter.module(8, 24)


def test_runs_at_the_same_time_compile_once(tmp_path, monkeypatch):
    try:
        compilation.tool_versions()
    except ToolNotFound as error:
        pytest.skip(str(error))
    made = []

    def compile_into(place, module, folder, rtl):
        made.append(place)
        time.sleep(0.05)  # the others come meanwhile
        place.mkdir()
        (place / "simulation").write_text("")

    monkeypatch.setattr(compilation, "_compile_into", compile_into)
    together = threading.Barrier(4)

    def one(number):
        together.wait(60)
        return compilation.compile_module(MODULE, tmp_path).program

    with ThreadPoolExecutor(4) as pool:
        programs = set(pool.map(one, range(4)))
    assert len(made) == 1 and programs == {made[0] / "simulation"}
