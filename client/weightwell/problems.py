"""Problem details (RFC 9457): the reasons why a server refuses a request."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

EXCERPT = 200  # characters shown of another kind of error page: enough to recognise the program that sent it


@dataclass(frozen=True, slots=True)
class FieldError:
    """One invalid field of a request: its path, the value received, the values allowed, and a sentence with all three.

    ``hint`` is a suggestion, or None.
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
        """Return the facts about this error that are not in a text: field, got, expected and hint. May be empty."""
        said = all(each in text for each in (self.field, self.expected, str(self.got)))
        sentences = [] if said else [f"{self.field} must be {self.expected}, got {self.got!r}"]
        if self.hint and self.hint not in text:
            sentences.append(self.hint)
        return "; ".join(sentences)


@dataclass(frozen=True, slots=True)
class Problem:
    """A refusal. ``retry_after`` is in seconds, or None if the server sent no such field."""

    status: int
    type: str
    title: str
    detail: str
    errors: tuple[FieldError, ...] = ()
    retry_after: float | None = None

    @classmethod
    def of(cls, document: object, *, status: int, reason: str, text: str, retry_after: float | None) -> "Problem":
        """Read a problem document, or use the beginning of any other error page as the message.

        ``document`` is the parsed body, or None if it is not JSON. ``reason`` is the reason phrase, ``text`` the body.
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
    """Return ``"; did you mean bfloat16?"`` for the name closest to ``got``, or "" if no name is close."""
    like = get_close_matches(str(got).lower(), names, 1) if isinstance(got, str) and len(got) < EXCERPT else []
    return f"; did you mean {like[0]}?" if like else ""
