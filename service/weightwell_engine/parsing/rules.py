"""Rules: finds the first rule that matches a tensor.

Patterns come from untrusted clients, so RE2 matches them: its time is linear in the length of the name, for any
pattern. All patterns of a manifest, including globs, form one automaton (Cox 2010,
https://swtch.com/~rsc/regexp/regexp3.html).
"""

import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import re2

from weightwell_engine.exceptions import InvalidSpec, TooLarge

# The most rules of a manifest, not counting those of a preset.
MAX_RULES = 2000

# The most instructions of all patterns together; a pattern has about as many as characters.
MAX_PROGRAM = 2**17

# The most CPU seconds to find the rules of one manifest's tensors. A thousand tensors and a hundred rules take a
# fiftieth of that; malicious patterns could take hours.
MAX_SECONDS = 4.0

# Options of a single pattern: memory for 20,000 instructions, which compile in milliseconds.
_SINGLE = re2.Options()
_SINGLE.log_errors = False
_SINGLE.max_mem = 2**18

_ALL = re2.Options()
_ALL.log_errors = False

# One piece of a glob: a star, a question mark, a set of characters, or anything else.
_PIECE = re.compile(r"(?P<any>\*+)|(?P<one>\?)|\[(?P<not>!?+)(?P<set>\][^\]]*|[^\]]+)\]|(?P<text>[^*?[]+|\[)")
_MEMBER = re.compile(r"(.)-(.)|(.)", re.DOTALL)

_ANYTHING = "(?s:.*)"

# The module of the sentinel pattern; no tensor has it.
_NO_MODULE = ""


@dataclass(frozen=True, slots=True)
class Condition:
    """The tensors that a rule matches: a ``pattern`` of the whole name, in RE2's syntax, and a type of ``module``."""

    pattern: str
    module: str | None = None

    @classmethod
    def of(cls, match: str | None, regex: str | None, module: str | None) -> "Condition":
        """Return the condition of a rule; raise ``InvalidSpec`` if it is missing or invalid."""
        if match is not None and regex is not None:
            raise InvalidSpec("regex", got=regex, expected="absent if there is a match")
        if match is None and regex is None and module is None:
            detail = 'a rule has no condition: give it a match (a glob; "*" is any name), a regex or a module'
            raise InvalidSpec("match", got=None, expected="given, or a regex, or a module", detail=detail)
        if regex is None:
            return cls(_ANYTHING if match is None else translate(match), module)
        try:
            re2.compile(regex, _SINGLE)
        except re2.error as error:
            reason = error.args[0].decode(errors="replace")
            detail = f"regex must be a regular expression in RE2's syntax, got {regex[:80]!r}: {reason[:80]}"
            expected = "a regular expression in RE2's syntax, which has no backreferences and no lookaround"
            raise InvalidSpec("regex", got=regex, expected=expected, detail=detail) from None
        return cls(regex, module)


class Matcher:
    """Finds the first of some conditions that matches a tensor; raises ``TooLarge`` if that takes too long."""

    def __init__(self, conditions: Sequence[Condition]):
        self._modules = [*(condition.module for condition in conditions), _NO_MODULE]
        self._automaton = _automaton(tuple(condition.pattern for condition in conditions))
        self._deadline = time.thread_time() + MAX_SECONDS

    def first(self, name: str, module: str | None) -> int | None:
        """Return the index of the first condition that matches a tensor, or None."""
        allowed = (None, module)
        return min([place for place in self._matching(name) if self._modules[place] in allowed], default=None)

    def matches(self, place: int, name: str) -> bool:
        """Return whether the pattern of a condition matches a name."""
        return place in self._matching(name)

    def _matching(self, name: str) -> Sequence[int]:
        """Return the indices of the conditions whose patterns match a name."""
        if time.thread_time() > self._deadline:
            raise TooLarge(f"matching the rules takes over {MAX_SECONDS:g} s; use simpler ones, or split the manifest")
        found = self._automaton.Match(name)
        if not found:  # not even the sentinel
            raise TooLarge("matching the rules takes too much memory; use simpler ones, or split the manifest")
        places: Sequence[int] = found
        return places


@lru_cache(8)
def _automaton(patterns: tuple[str, ...]) -> re2.Set:
    """Return the automaton of all patterns, and after them a sentinel that matches every name.

    The sentinel tells "no match" from RE2 running out of memory, which then reports that nothing matches.
    """
    automaton, size = re2.Set.FullMatchSet(_ALL), 0
    for pattern in patterns:
        size += re2.compile(pattern, _SINGLE).programsize
        if size > MAX_PROGRAM:
            raise TooLarge(f"the patterns of all rules have over {MAX_PROGRAM} instructions; use fewer or simpler ones")
        automaton.Add(pattern)
    automaton.Add(_ANYTHING)
    try:
        automaton.Compile()
    except re2.error:
        raise TooLarge("the patterns of all rules take too much memory; use fewer or simpler ones") from None
    return automaton


def translate(glob: str) -> str:
    """Return the regular expression of a glob, with the meaning that it has in Python's ``fnmatchcase``."""
    return "".join(_translated(piece) for piece in _PIECE.finditer(glob))


def _translated(piece: re.Match[str]) -> str:
    match piece.lastgroup:
        case "any":
            return _ANYTHING
        case "one":
            return "(?s:.)"
        case "text":
            return str(re2.escape(piece["text"]))
    members = "".join(_members(piece["set"]))
    if piece["not"]:
        return f"[^{members}]" if members else "(?s:.)"
    return f"[{members}]" if members else r"[^\x{0}-\x{10ffff}]"


def _members(text: str) -> Iterable[str]:
    """Yield the characters and ranges of a set; a range that ends before it begins is empty."""
    for low, high, single in _MEMBER.findall(text):
        if single or low <= high:
            yield re2.escape(single) or f"{re2.escape(low)}-{re2.escape(high)}"
