"""Addresses of engines in this process: ``local:``, ``local:cuda:0``, ``local:cpu?threads=4``."""

import re
from dataclasses import dataclass

from weightwell_engine.processors import cpus

_FORM = re.compile(r"local:(?P<device>|cpu|cuda|cuda:(0|[1-9]\d*))(\?threads=(?P<threads>[1-9]\d{0,3}))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Address:
    """A device, in torch's words, and the number of threads that draw."""

    device: str
    threads: int

    @classmethod
    def of(cls, url: str) -> "Address":
        """Read an address; raise ValueError for any other form."""
        found = _FORM.fullmatch(url)
        if not found:
            raise ValueError(
                f"expected local:DEVICE?threads=N, such as local:, local:cuda:0 or local:cpu?threads=4, got {url!r}"
            )
        return cls(found["device"] or "cpu", int(found["threads"] or cpus()))


def url_of(device: object, threads: int | None) -> str:
    """Return the address of a device and a number of threads, or of all CPUs; raise ValueError for others."""
    if threads is not None and (isinstance(threads, bool) or not isinstance(threads, int) or not 0 < threads < 10_000):
        raise ValueError(f"threads must be an integer from 1 to 9999, or None for all CPUs, got {threads!r}")
    url = f"local:{device}" + (f"?threads={threads}" if threads else "")
    Address.of(url)
    return url
