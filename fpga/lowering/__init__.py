"""From QONNX to integers: a QONNX graph becomes a graph of FINN+ hardware operators."""
