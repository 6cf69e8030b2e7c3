"""Problem details (RFC 9457): the reasons for which a server refuses a request, as plain values."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

EXCERPT = 200  # characters shown of an error page that is no problem document: enough to see who is answering


@dataclass(frozen=True, slots=True)
class FieldError:
    """One wrong field of a request: its path, what was got, what is expected, and a sentence that says so.

    ``hint`` says what to do instead; None where the server cannot guess it.
    """

    field: str
    got: object
    expected: str
    detail: str
    hint: str | None = None

    @classmethod
    def of(cls, error: Mapping[str, Any]) -> "FieldError":
        """Read one element of the document's ``errors``."""
        expected, detail = (str(error.get(key, "")) for key in ("expected", "detail"))
        hint = error.get("hint")
        return cls(str(error.get("field", "")), error.get("got"), expected, detail, None if hint is None else str(hint))

    def beyond(self, text: str) -> str:
        """Return what a text does not say of this error: field, got and expected, and the hint; empty if nothing."""
        said = all(each in text for each in (self.field, self.expected, str(self.got)))
        sentences = [] if said else [f"{self.field} must be {self.expected}, got {self.got!r}"]
        if self.hint and self.hint not in text:
            sentences.append(self.hint)
        return "; ".join(sentences)


@dataclass(frozen=True, slots=True)
class Problem:
    """A refusal. ``retry_after`` is in seconds, None where the server asked for no wait."""

    status: int
    type: str
    title: str
    detail: str
    errors: tuple[FieldError, ...] = ()
    retry_after: float | None = None

    @classmethod
    def of(cls, document: object, *, status: int, reason: str, text: str, retry_after: float | None) -> "Problem":
        """Read a problem document, or make the most of an error page that is none.

        ``document`` is the parsed body (None where it is no JSON), ``reason`` the reason phrase, ``text`` the body.
        """
        members = document if isinstance(document, dict) else {}
        errors = members.get("errors")
        return cls(
            status=status,
            type=str(members.get("type", "about:blank")),
            title=str(members.get("title", reason)),
            detail=str(members.get("detail") or f"{reason}: {text[:EXCERPT].strip()}"),
            errors=tuple(FieldError.of(e) for e in errors if isinstance(e, dict)) if isinstance(errors, list) else (),
            retry_after=retry_after,
        )


def did_you_mean(got: object, names: Iterable[str]) -> str:
    """Return ``"; did you mean bfloat16?"`` for the name that is most like ``got``; empty if none is."""
    like = get_close_matches(str(got).lower(), names, 1) if isinstance(got, str) and len(got) < EXCERPT else []
    return f"; did you mean {like[0]}?" if like else ""
