"""The RTL of each operator of our own: one file an operator, each with ``hardware``."""
