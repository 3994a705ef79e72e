"""Quantization: quantized network, calibration and quantization-aware training."""
