"""The memory budget of matrices that must be generated whole, shared by all requests."""

from collections.abc import Iterator
from contextlib import contextmanager

from weightwell_engine.exceptions import Busy, TooLarge


class MemoryBudget:
    """At most ``limit`` bytes are reserved at a time."""

    def __init__(self, limit: int):
        self.limit = limit
        self.used = 0

    def check(self, nbytes: int) -> None:
        """Raise ``TooLarge`` for more bytes than the whole budget has."""
        if nbytes > self.limit:
            raise TooLarge(
                "this file has tensors that must be generated whole, even for a slice. That needs "
                f"{nbytes} bytes of memory, and this server allows {self.limit} (WEIGHTWELL_MAX_RESIDENT_BYTES); "
                "ask for smaller tensors, or for fewer at once"
            )

    @contextmanager
    def reserve(self, nbytes: int) -> Iterator[None]:
        """Reserve bytes for as long as the context lasts; raise ``Busy`` if they are not free now."""
        if self.used + nbytes > self.limit:
            raise Busy("the memory for tensors that must be generated whole is in use by other requests; try again")
        self.used += nbytes
        try:
            yield
        finally:
            self.used -= nbytes
