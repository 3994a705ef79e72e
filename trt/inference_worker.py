"""Runs one engine in a process of its own.

    python -m trt.inference_worker run  PLAN IMAGES.npy LOGITS.npy
    python -m trt.inference_worker time PLAN IMAGES.npy LOGITS.npy WARM_UP RUNS

``run`` writes the logits; ``time`` answers with the times. Standard output carries the answer as
:func:`lmaunet.trt.processes.run_worker` reads it.
"""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path

from lmaunet.errors import UserError
from lmaunet.trt.loaded_engine import infer_here, time_here
from lmaunet.trt.processes import open_answers


def main(arguments: list[str]) -> int:
    """Run or time one engine; returns 0, or 1 after an ``error`` line."""
    answer = open_answers()
    import numpy as np

    action, plan, images, logits, *numbers = arguments
    answer(progress=f"loading {Path(plan).name}")
    batch = np.load(images)
    try:
        if action == "time":
            latency = time_here(Path(plan), batch, *(int(n) for n in numbers))
            answer(done=True, latency=asdict(latency))
        else:
            np.save(logits, infer_here(Path(plan), batch))
            answer(done=True)
    except (UserError, OSError) as error:
        answer(error=str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
