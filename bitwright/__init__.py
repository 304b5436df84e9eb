"""bitwright: compress a trained network for a device, and prove what the engine really executed."""

__version__ = "0.1.0"
