"""The Weightwell service: initialized weight tensors, drawn on demand and served as safetensors files."""

from importlib.metadata import version
from importlib.util import find_spec

if find_spec("fastapi") is None:
    raise ImportError("the service needs more than the client: pip install 'weightwell[service]'")

__version__ = version("weightwell")
