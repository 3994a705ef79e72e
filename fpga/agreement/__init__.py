"""The hardware graph held to the QONNX model."""
