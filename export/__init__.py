"""ONNX: the network, the lowerings of the scan, and the checks of both."""
