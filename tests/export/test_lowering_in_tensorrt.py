import importlib.util
import subprocess
import sys

import onnx
import pytest
from scan_models import random_arrays, scan_model

from lmaunet.export.lower import lower

# In a process of its own: the library's first logger is that of the whole process.
TENSORRT = """
import sys
import tensorrt_rtx as trt
logger = trt.Logger(trt.Logger.ERROR)
builder = trt.Builder(logger)
network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
parser = trt.OnnxParser(network, logger)
if not parser.parse_from_file(sys.argv[1]):
    sys.exit("; ".join(parser.get_error(i).desc() for i in range(parser.num_errors)))
config = builder.create_builder_config()
config.num_compute_capabilities = 1
config.set_compute_capability(trt.ComputeCapability.SM86, 0)
engine = builder.build_serialized_network(network, config)
print(0 if engine is None else engine.nbytes)
"""


@pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None,
    reason="tensorrt_rtx is not installed (python -m pip install 'tensorrt-rtx-cu13==1.7.1.116')",
)
@pytest.mark.parametrize("shape", [(1, 1024, 24, 8), (2, 37, 3, 2), (1, 5, 2, 2)], ids=str)
def test_tensorrt_builds_two_level(shape, tmp_path):
    onnx.save(lower(scan_model(random_arrays(*shape)), "two_level"), tmp_path / "scan.onnx")
    done = subprocess.run(
        [sys.executable, "-c", TENSORRT, tmp_path / "scan.onnx"],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert 0 < int(done.stdout.split()[-1]) < 4_000_000
