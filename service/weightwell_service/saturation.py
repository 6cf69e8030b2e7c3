"""Saturation: whether a server has so much work that a load balancer should send new clients to another one."""

import os
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from weightwell_service.processes import is_alive

# A saturated server is ready again when the load is below this part of the limit. In between, it stays as it is.
LOW = 0.8

_FORM = struct.Struct("<qqdd")


@dataclass(frozen=True, slots=True)
class Load:
    """The files that are sent, of so many; and the longest wait for memory, of so many seconds."""

    responses: int
    max_responses: int
    waited: float
    patience: float

    @property
    def part(self) -> float:
        """The larger part in use, in [0, 1]."""
        return max(self.responses / self.max_responses, self.waited / self.patience)

    def __str__(self) -> str:
        if self.responses / self.max_responses >= self.waited / self.patience:
            return f"{self.responses} files are being sent, of at most {self.max_responses}"
        return f"a request has waited for memory for {self.waited:.0f} s, of at most {self.patience:g} s"

    def __add__(self, other: "Load") -> "Load":
        """Return the load of two processes: the sum of the files, and the longest wait."""
        return Load(
            self.responses + other.responses,
            self.max_responses + other.max_responses,
            max(self.waited, other.waited),
            self.patience,
        )


class Saturation:
    """Whether a server is saturated: from a load of ``limit`` on, until it is below ``LOW`` times that.

    ``load``: returns the load of this process. ``limit`` is in [0, 1]; with 0, a server is never saturated. ``folder``:
    where several processes of one server write their loads; None for one process.
    """

    def __init__(self, limit: float, load: Callable[[], Load], folder: Path | None = None):
        self._limit = limit
        self._load = load
        self._folder = folder
        self._saturated = False

    def publish(self) -> None:
        """Write the load of this process for the others. The server calls this once a second."""
        if self._folder is not None and self._limit:
            load = self._load()
            data = _FORM.pack(load.responses, load.max_responses, load.waited, load.patience)
            path = self._folder / str(os.getpid())
            new = path.with_suffix(".new")
            with suppress(OSError):  # a full disk must not end the server
                new.write_bytes(data)
                new.replace(path)  # so that no process reads a part

    def reason(self) -> str | None:
        """Return why the server is saturated; None if it is not."""
        if not self._limit:
            return None
        load, before = self._of_all(), self._is_saturated()
        saturated = load.part >= self._limit * (LOW if before else 1.0)
        if saturated != before:  # and otherwise this could undo a change of another process
            self._set(saturated=saturated)
        if not saturated:
            return None
        return f"saturated: {load}; ready again below {LOW * self._limit:.0%} of that (WEIGHTWELL_SATURATION)"

    def _of_all(self) -> Load:
        load = self._load()
        for path in self._folder.iterdir() if self._folder is not None else ():
            if not path.name.isdecimal() or int(path.name) == os.getpid():
                continue
            if not is_alive(int(path.name)):
                path.unlink(missing_ok=True)
                continue
            with suppress(OSError, struct.error):  # it has just been removed, or a full disk has cut it off
                load += Load(*_FORM.unpack(path.read_bytes()))
        return load

    # Each process answers some of the questions, so the state is in a file that all can see.

    def _is_saturated(self) -> bool:
        return self._saturated if self._folder is None else (self._folder / "saturated").exists()

    def _set(self, *, saturated: bool) -> None:
        self._saturated = saturated
        if self._folder is None:
            return
        with suppress(OSError):  # on a full disk, the next question finds the state again
            if saturated:
                (self._folder / "saturated").touch()
            else:
                (self._folder / "saturated").unlink(missing_ok=True)
