"""Which release the interface is that of."""

__version__ = "0.5.0"
