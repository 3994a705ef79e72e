"""Defaults that the command line shows and the demo uses."""

TRAIN_EPOCHS, TRAIN_RATE = 75, 3e-3
QAT_EPOCHS, QAT_RATE = 8, 1e-4
BATCH_SIZE = 8
SMS, PRECISION = ("SM86", "SM89"), "int8"
BOARD, CLOCK_MHZ, FLOW = "ZCU104", 250.0, "none"
