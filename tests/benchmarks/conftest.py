"""The benchmarks are scripts that import each other; here they are found as modules."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
# what the studies of operators share with the operators' own tests
sys.path.append(str(Path(__file__).parents[1] / "fpga"))

from network_case import simulations, whole  # noqa: F401
