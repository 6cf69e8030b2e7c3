"""Processes of one server."""

import os


def is_alive(process: int) -> bool:
    """Whether a process exists, of any user."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
