"""The network in torch."""
