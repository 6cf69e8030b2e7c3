"""Progress bars for long bodies, on a terminal or in a notebook."""

import sys
from typing import Any

LONG = 64 << 20  # bytes: about a second of a gigabit line; a bar for less would only flicker
STEP = 1 << 20  # bytes between two updates


class Progress:
    """The bar of one transfer. ``wanted``: True for always, False for never, None for long bodies if it is visible."""

    def __init__(self, label: str, wanted: bool | None):
        self._label = label
        self._wanted = wanted
        self._bar: Any = None
        self._pending = 0

    def start(self, total: int) -> None:
        """Show the bar of a body of ``total`` bytes, at zero, if one is wanted."""
        self._pending = 0
        if self._bar is not None:
            self._bar.reset(total)
        elif self._wanted or (self._wanted is None and total >= LONG and watched()):
            self._bar = _bar(self._label, total)

    def skip(self, count: int) -> None:
        """Count bytes from an earlier attempt, which do not count for the rate."""
        if self._bar is not None:
            self._flush()
            self._bar.initial = self._bar.n = self._bar.last_print_n = self._bar.n + count
            self._bar.refresh()

    def advance(self, count: int) -> None:
        """Count more bytes."""
        self._pending += count
        if self._bar is not None and self._pending >= STEP:
            self._flush()

    def close(self) -> None:
        """Leave the bar as it stands."""
        if self._bar is not None:
            self._flush()
            self._bar.close()

    def _flush(self) -> None:
        """Show the bytes that were counted."""
        self._bar.update(self._pending)
        self._pending = 0


def watched() -> bool:
    """Whether a bar would be visible: on a terminal, or in a notebook."""
    return sys.stderr.isatty() or "ipykernel" in sys.modules


def _bar(label: str, total: int) -> Any:
    """Return tqdm's bar for a terminal or a notebook; tqdm is imported here, because most programs never show one."""
    from tqdm.auto import tqdm

    return tqdm(desc=label, total=total, unit="B", unit_scale=True, unit_divisor=1024)
