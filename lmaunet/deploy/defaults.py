"""Defaults that the command line shows and the demo uses."""

from lmaunet.data.windows import OVERLAP

__all__ = ["OVERLAP"]

TRAIN_EPOCHS, TRAIN_RATE = 75, 3e-3
QAT_EPOCHS, QAT_RATE = 8, 1e-4
BATCH_SIZE = 8
SMS = ("SM86", "SM89")
PRECISIONS = ("int8", "fp16", "fp32", "int4-weights")
"""Of a TensorRT engine; the first if none is given."""
BOARD, CLOCK_MHZ, FLOW = "ZCU104", 250.0, "none"
INFER_BATCH = 4
