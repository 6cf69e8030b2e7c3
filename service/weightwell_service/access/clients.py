"""Clients: who sends a request. A client is a token, or an address on a server without tokens."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import Any, Literal

from weightwell_service.access.costs import Costs
from weightwell_service.scheduler import Requester

# The client of requests without an address, or with one that no proxy should send.
_UNKNOWN = "unknown"

# A subscriber has so many bits of IPv6 addresses, and can use all of them.
_PREFIX = 64


@dataclass(frozen=True, slots=True)
class Client:
    """A client and its limits; None is no limit.

    ``max_responses``: answers at once. ``bytes_per_day``: bytes of all answers in a day of UTC. ``share``: its turns in
    a round of the scheduler. ``batch``: whether its requests wait while those of others wait. ``costs``: the limits of
    each request.
    """

    kind: Literal["token", "address"]
    name: str
    max_responses: int | None = None
    bytes_per_day: int | None = None
    share: int = 1
    batch: bool = False
    costs: Costs = field(default_factory=Costs)

    def __str__(self) -> str:
        return f"the {self.kind} {self.name}"

    @property
    def key(self) -> str:
        """The identity, which no client of the other kind has."""
        return f"{self.kind} {self.name}"

    def setting(self, name: str) -> str:
        """Return how an operator sets one of the limits ``max_responses`` and ``bytes_per_day``."""
        return name if self.kind == "token" else f"WEIGHTWELL_{name.upper()}_PER_ADDRESS"


def known_client(scope: Mapping[str, Any]) -> Client | None:
    """Return the client that the guard has found for a request; None if there is no guard."""
    client: Client | None = scope.get("state", {}).get("client")
    return client


def check_bytes(scope: Mapping[str, Any], nbytes: int) -> None:
    """Raise ``Exceeded`` if the client of a request may not have an answer of ``nbytes`` today."""
    check: Callable[[int], None] | None = scope.get("state", {}).get("check_bytes")
    if check is not None:
        check(nbytes)


def requester(scope: Mapping[str, Any], *, small: bool, costs: Costs | None = None) -> Requester:
    """Return the requester of a request, for the scheduler: its token, or else its address."""
    client = known_client(scope)
    check = costs.check_used if costs is not None and costs.max_cpu_seconds is not None else None
    if client is None:
        return Requester(f"address {address_of(scope)}", small=small, check=check)
    return Requester(client.key, small=small, share=client.share, batch=client.batch, check=check)


def address_of(scope: Mapping[str, Any]) -> str:
    """Return the address by which a request is counted: of IPv6 the network of 64 bits.

    Behind a trusted proxy (``FORWARDED_ALLOW_IPS``), this is the address that the proxy has seen.
    """
    client = scope.get("client")
    try:
        address = ip_address(client[0]) if client else None
    except ValueError:
        address = None
    if address is None:
        return _UNKNOWN
    if address.version == 4:
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ip_network((address.packed, _PREFIX), strict=False))
