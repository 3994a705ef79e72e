"""The whole design as RTL, simulated to the last cycle."""
