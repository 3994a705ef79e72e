"""FPGA: from QONNX to a FINN+ hardware graph."""
