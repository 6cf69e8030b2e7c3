"""Processors: how many CPUs there are for this process."""

import os


def cpus() -> int:
    """Return the number of CPUs that this process may use, or of all CPUs if the system does not report it."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
