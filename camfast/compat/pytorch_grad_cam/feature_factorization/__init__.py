"""The concepts that a layer tells apart."""

from camfast.compat._missing import missing

__getattr__ = missing(__name__)
