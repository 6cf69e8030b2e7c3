"""Weightwell: initialized weight tensors over HTTP. The same spec gives the same bytes on every machine.

import weightwell

with weightwell.Client("http://127.0.0.1:8000") as client:
    weight = client.init((512, 784), "kaiming_normal", seed=42)
"""

from weightwell.async_client import AsyncClient
from weightwell.cautions import RepeatedStreamWarning, UnfilledWarning, UnusedRuleWarning
from weightwell.client import Client, local
from weightwell.exceptions import (
    AccessDenied,
    Busy,
    ConnectionFailed,
    FileChanged,
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
from weightwell.files.comparison import Difference, Verdict
from weightwell.gains import Gain
from weightwell.models.manifest import Manifest
from weightwell.models.names import canonical_name, register_wrapper
from weightwell.models.plans import Plan
from weightwell.models.recorded import Recording
from weightwell.problems import FieldError, Problem
from weightwell.propagation.coordinates import CoordinateCheck, coordinate_check
from weightwell.propagation.signals import Signals, signals
from weightwell.propagation.stacks import Signal
from weightwell.version import installed_version as _installed_version

recording = Recording

__version__ = _installed_version()

__all__ = [
    "AccessDenied",
    "AsyncClient",
    "Busy",
    "Client",
    "ConnectionFailed",
    "CoordinateCheck",
    "Difference",
    "FieldError",
    "FileChanged",
    "Gain",
    "InvalidFile",
    "InvalidRequest",
    "Manifest",
    "MissingFramework",
    "NotFound",
    "Plan",
    "Problem",
    "Recording",
    "RepeatedStreamWarning",
    "ServerProblem",
    "Signal",
    "Signals",
    "TimedOut",
    "TooLarge",
    "TransportError",
    "TruncatedBody",
    "UnexpectedResponse",
    "UnfilledWarning",
    "UnusedRuleWarning",
    "Verdict",
    "WeightwellError",
    "canonical_name",
    "coordinate_check",
    "local",
    "recording",
    "register_wrapper",
    "signals",
]
