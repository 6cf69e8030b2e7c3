"""The Weightwell service: initialized weight tensors, drawn on demand and served as safetensors files."""

from importlib.metadata import version

__version__ = version("weightwell")
