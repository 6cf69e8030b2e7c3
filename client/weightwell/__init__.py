"""Weightwell: initialized weight tensors over HTTP; the same spec is the same bytes, everywhere.

import weightwell

with weightwell.Client("http://127.0.0.1:8000") as client:
    weight = client.init((512, 784), "kaiming_normal", seed=42)
"""

from weightwell.async_client import AsyncClient
from weightwell.client import Client
from weightwell.exceptions import (
    AccessDenied,
    Busy,
    ConnectionFailed,
    InvalidFile,
    InvalidRequest,
    MissingFramework,
    NotFound,
    ServerProblem,
    TimedOut,
    TooLarge,
    TransportError,
    TruncatedBody,
    UnexpectedResponse,
    WeightwellError,
)
from weightwell.problems import FieldError, Problem

__all__ = [
    "AccessDenied",
    "AsyncClient",
    "Busy",
    "Client",
    "ConnectionFailed",
    "FieldError",
    "InvalidFile",
    "InvalidRequest",
    "MissingFramework",
    "NotFound",
    "Problem",
    "ServerProblem",
    "TimedOut",
    "TooLarge",
    "TransportError",
    "TruncatedBody",
    "UnexpectedResponse",
    "WeightwellError",
]
