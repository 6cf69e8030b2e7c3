"""The version of this package."""

from importlib.metadata import PackageNotFoundError, version


def installed_version() -> str:
    """Return the version of this package, or "0" if the package is not installed (a bare source tree)."""
    try:
        return version("weightwell")
    except PackageNotFoundError:
        return "0"
