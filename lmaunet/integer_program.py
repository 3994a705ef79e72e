"""A HiGHS solver that prints nothing, for results that go to standard output as JSON."""

from __future__ import annotations

import ctypes
import os
import sys
from typing import Any


def quiet_solver() -> Any:
    """Return a new ``highspy.Highs`` without output.

    HiGHS 1.16 prints its name when the first solver of a process is made, before an option could
    forbid it; so standard output is turned away meanwhile.
    """
    import highspy

    sys.stdout.flush()
    stdout, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        solver = highspy.Highs()
        # what C has buffered would come out later
        ctypes.CDLL(None).fflush(None)
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)
        os.close(nowhere)
    solver.setOptionValue("output_flag", False)
    # HiGHS has one scheduler a process, and fails where a later solver wants other threads
    solver.setOptionValue("threads", 1)
    return solver
