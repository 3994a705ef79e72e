"""A QONNX file lowered to a graph of hardware operators, and that graph's integers."""
