from fnmatch import fnmatchcase
from unittest import mock

import pytest
import re2
from hypothesis import given
from hypothesis import strategies as st

from weightwell_engine.exceptions import InvalidSpec, TooLarge
from weightwell_engine.parsing import rules
from weightwell_engine.parsing.rules import MAX_PROGRAM, Condition, Matcher, translate

globs = st.text("ab*?[]!-^\\.\n\U0001d6fc", max_size=12)
names = st.text("ab-[]!^\\.\n\U0001d6fc", max_size=10)


def glob(match: str, module: str | None = None) -> Condition:
    return Condition.of(match, None, module)


def regex(pattern: str, module: str | None = None) -> Condition:
    return Condition.of(None, pattern, module)


def first(conditions: list[Condition], name: str, module: str | None = None) -> int | None:
    return Matcher(conditions).first(name, module)


# Globs ---------------------------------------------------------------------------------------------------------------


@given(globs, names)
def test_a_glob_has_the_meaning_of_fnmatch(pattern: str, name: str) -> None:
    assert bool(re2.fullmatch(translate(pattern), name)) == fnmatchcase(name, pattern)


@given(st.text(st.characters(codec="utf-8"), max_size=12))
def test_a_name_without_wildcards_matches_itself_alone(name: str) -> None:
    literal = "".join(f"[{each}]" if each in "*?[" else each for each in name)
    assert re2.fullmatch(translate(literal), name)
    assert not re2.fullmatch(translate(literal), f"{name}x")


@pytest.mark.parametrize(
    ("pattern", "matching", "other"),
    [
        ("*.bias", "h.0.attn.bias", "h.0.attn.bias2"),
        ("h.?.weight", "h.3.weight", "h.12.weight"),
        ("h.[0-3].*", "h.2.mlp.weight", "h.4.mlp.weight"),
        ("h.[!0-3].*", "h.4.mlp.weight", "h.2.mlp.weight"),
        ("Bias", "Bias", "bias"),
        ("*", "anything at all\n", None),
    ],
)
def test_a_glob_is_for_the_whole_name_and_its_star_crosses_dots(pattern: str, matching: str, other: str | None) -> None:
    assert first([glob(pattern)], matching) == 0
    assert other is None or first([glob(pattern)], other) is None


# Conditions ----------------------------------------------------------------------------------------------------------


def test_a_regex_is_for_the_whole_name() -> None:
    assert first([regex(r"h\.\d+\.mlp")], "h.12.mlp") == 0
    assert first([regex(r"h\.\d+\.mlp")], "h.12.mlp.weight") is None
    assert first([regex("a|ab")], "ab") == 0


def test_the_first_condition_that_holds_comes_first() -> None:
    conditions = [glob("*.c"), regex(r"a\..*"), glob("*")]
    assert [first(conditions, name) for name in ("a.c", "a.b", "b")] == [0, 1, 2]


def test_a_module_is_a_condition_in_addition_to_the_name() -> None:
    conditions = [glob("*.weight", "Linear"), Condition.of(None, None, "Conv2d"), glob("*.weight")]
    assert first(conditions, "a.weight", "Linear") == 0
    assert first(conditions, "a.weight", "Conv2d") == 1
    assert first(conditions, "a.bias", "Conv2d") == 1
    assert first(conditions, "a.weight", "linear") == 2
    assert first(conditions, "a.weight") == 2
    assert first(conditions, "a.bias", "Linear") is None


def test_without_conditions_nothing_holds() -> None:
    assert first([], "a") is None


@given(st.lists(globs, max_size=5), names)
def test_the_first_of_many_globs_is_the_one_that_matches_before_all_others(patterns: list[str], name: str) -> None:
    expected = next((place for place, each in enumerate(patterns) if fnmatchcase(name, each)), None)
    assert first([glob(each) for each in patterns], name) == expected


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("(", r"missing \)"),
        ("a**", "bad repetition operator"),
        (r"(a)\1", "invalid escape sequence"),
        ("(?=a)", "invalid perl operator"),
        ("a{1001}", "invalid repetition size"),
        (r"\pL{1000}", "pattern too large"),
        ("[z-a]", "invalid character class range"),
    ],
)
def test_what_is_no_regular_expression_is_refused_with_the_reason(pattern: str, reason: str) -> None:
    with pytest.raises(InvalidSpec, match=reason) as caught:
        regex(pattern)
    assert caught.value.field == "regex"


def test_a_rule_has_a_glob_or_a_regex_and_not_both() -> None:
    with pytest.raises(InvalidSpec, match="regex must be absent if there is a match"):
        Condition.of("*", ".*", None)


def test_a_rule_without_a_condition_is_refused() -> None:
    with pytest.raises(InvalidSpec, match="a rule has no condition"):
        Condition.of(None, None, None)


# Limits --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pattern", [r"(a+)+b", r"(a|a)*b", r"(.*a){20}b", "*a" * 100 + "b"])
def test_no_pattern_takes_longer_than_its_length_says(pattern: str) -> None:
    condition = glob(pattern) if pattern.startswith("*") else regex(pattern)
    assert first([condition], "a" * 1024) is None  # with backtracking: not within the age of the universe


def test_rules_that_are_too_large_together_are_refused() -> None:
    conditions = [regex(f"a{{900}}b{{{i}}}") for i in range(1, 1 + MAX_PROGRAM // 900)]
    with pytest.raises(TooLarge, match="use fewer or simpler ones"):
        Matcher(conditions)


def test_rules_that_take_too_much_memory_are_refused() -> None:
    conditions = [regex(f"(.*a.{{300}}){{3}}{'b' * i}") for i in range(100)]
    with mock.patch.object(rules, "MAX_PROGRAM", 2**40), pytest.raises(TooLarge, match="too much memory"):
        Matcher(conditions)


def test_rules_that_take_too_long_are_refused() -> None:
    matcher = Matcher([glob("*")])
    with mock.patch("time.thread_time", return_value=float("inf")), pytest.raises(TooLarge, match="4 s"):
        matcher.first("a", None)


def test_an_automaton_that_gives_up_is_not_taken_for_one_that_finds_nothing() -> None:
    matcher = Matcher([glob("a")])
    with mock.patch.object(matcher, "_automaton") as automaton:
        automaton.Match.return_value = None
        with pytest.raises(TooLarge, match="too much memory"):
            matcher.first("a", None)
