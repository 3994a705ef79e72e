"""What needs FINN+, Vivado or Vitis."""
