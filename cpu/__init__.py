"""CPUs: the exported network as files for ONNX Runtime and OpenVINO, and their operators."""
