"""Defaults that the command line shows and the demo uses."""

from lmaunet.data.windows import OVERLAP
from lmaunet.quant.settings import NORM_EPOCHS

__all__ = ["NORM_EPOCHS", "OVERLAP"]

TRAIN_EPOCHS, TRAIN_RATE = 75, 3e-3
PRETRAIN_EPOCHS, PRETRAIN_RATE = 50, 3e-3
QAT_EPOCHS, QAT_RATE = 8, 1e-4
DEMO_QAT_EPOCHS, DEMO_QAT_RATE = 2, 1e-5
"""On fifteen slices of one patient a small organ moves by more than the gate's 3 points between two
trainings of the float network itself. INT8 needs no more here than to settle: short and slow."""
BATCH_SIZE = 8
SMS = ("SM86", "SM89")
PRECISIONS = ("int8", "fp16", "fp32", "int4-weights")
"""Of a TensorRT engine; the first if none is given."""
BOARD, CLOCK_MHZ, FLOW = "ZCU104", 250.0, "none"
INFER_BATCH = 4
