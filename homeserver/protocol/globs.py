"""Glob patterns: ``*`` is any number of characters, ``?`` exactly one; matching is done without regard to case.

The time is linear in the text for each piece between two stars, whatever the pattern: a pattern comes from one user
and the text from another, and neither may keep the server busy.

spec: appendices/#glob-style-matching
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Final

Matcher = Callable[[str], bool]
"""Whether a text matches."""

_BEFORE_WORD: Final = r"(?<![A-Za-z0-9_])"
_AFTER_WORD: Final = r"(?![A-Za-z0-9_])"


@lru_cache(maxsize=4096)
def whole(pattern: str) -> Matcher:
    """A matcher of texts that match the pattern from their first character to their last."""
    if "*" not in pattern and "?" not in pattern:
        wanted = pattern.lower()
        return lambda text: text.lower() == wanted
    return _matcher(pattern, r"\A", r"\Z")


@lru_cache(maxsize=4096)
def words(pattern: str) -> Matcher:
    """A matcher of texts in which some part matches that starts and ends at a word boundary: the start or end of the
    text, or any character but ``A-Za-z0-9_``. spec: client-server-api/#conditions-1
    """
    return _matcher(pattern, _BEFORE_WORD, _AFTER_WORD)


def _matcher(pattern: str, before: str, after: str) -> Matcher:
    """Each piece between stars has a fixed length, so taking its first place leaves the most room to the next."""
    pieces = re.split(r"\*+", pattern)
    sources = ["".join("." if char == "?" else re.escape(char) for char in piece) for piece in pieces]
    sources[0] = before + sources[0]
    sources[-1] = sources[-1] + after
    searches = [re.compile(source, re.IGNORECASE | re.DOTALL).search for source in sources]
    if len(searches) == 1:
        only = searches[0]
        return lambda text: only(text) is not None

    def match(text: str) -> bool:
        place = 0
        for search in searches:
            found = search(text, place)
            if found is None:
                return False
            place = found.end()
        return True

    return match
