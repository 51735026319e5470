from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtdisagg.text.stop import StopStrings

TEXT = st.text("ab\n", max_size=24)
STOPS = st.lists(st.text("ab\n", min_size=1, max_size=5), max_size=4)


def run(pieces: list[str], stops: list[str], *, include: bool) -> tuple[str, str | None]:
    watched = StopStrings(stops, include=include)
    passed = ""
    for piece in pieces:
        text, stop = watched.push(piece)
        passed += text
        if stop is not None:
            return passed, stop
    return passed + watched.flush(), None


@given(text=TEXT, stops=STOPS, cuts=st.lists(st.integers(0, 24)), include=st.booleans())
def test_how_the_text_is_cut_makes_no_difference(text: str, stops: list[str], cuts: list[int], include: bool) -> None:
    borders = [0, *sorted(min(c, len(text)) for c in cuts), len(text)]
    pieces = [text[a:b] for a, b in itertools.pairwise(borders)]
    assert run(pieces, stops, include=include) == run([text], stops, include=include)


@given(text=TEXT, stops=STOPS)
def test_what_passes_is_the_text_up_to_the_first_stop(text: str, stops: list[str]) -> None:
    passed, stop = run([text], stops, include=False)
    assert text.startswith(passed + (stop or ""))
    assert not any(s in passed for s in stops)
    if stop is None:
        assert passed == text


@pytest.mark.parametrize(
    ("stops", "text", "passed", "stop"),
    [
        (["END"], "the END.", "the ", "END"),
        (["END"], "the EN", "the EN", None),
        (["abcd", "bc"], "abcd", "a", "bc"),  # ends first
        (["bc", "abc"], "abc", "", "abc"),  # end together: the longest
        (["aab"], "aaab", "a", "aab"),
        ([], "anything", "anything", None),
    ],
)
def test_matches(stops: list[str], text: str, passed: str, stop: str | None) -> None:
    assert run(list(text), stops, include=False) == (passed, stop)


def test_holds_back_only_what_may_become_a_stop() -> None:
    watched = StopStrings(["\n\nQ:"])
    assert watched.push("A: 4\n") == ("A: 4", None)
    assert watched.push("\n") == ("", None)
    assert watched.push("B") == ("\n\nB", None)
    assert watched.push("\n\nQ: more") == ("", "\n\nQ:")


def test_included_stop_passes_and_nothing_behind_it() -> None:
    assert run(["1 2 ", "3 4"], ["3"], include=True) == ("1 2 3", "3")
