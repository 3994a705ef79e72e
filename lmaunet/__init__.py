"""LMa-UNet: specification, arithmetic, network, data, training and deployment.

Importing this package loads no torch and no vendor library.
"""

__version__ = "0.1.0"
