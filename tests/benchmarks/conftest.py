"""The benchmarks are scripts that import each other; here they are found as modules."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
