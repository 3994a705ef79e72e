from __future__ import annotations

import subprocess
import sys

WORK = """
import sys
print("before")
{make}
solver.addBinary(obj=1.0)
solver.minimize()
print("after")
"""
QUIET = "from lmaunet.integer_program import quiet_solver; solver = quiet_solver()"


def test_a_solver_prints_nothing_and_what_comes_around_it_stays():
    work = WORK.format(make=QUIET)
    found = subprocess.run([sys.executable, "-c", work], capture_output=True, text=True, check=True)
    assert found.stdout == "before\nafter\n"
