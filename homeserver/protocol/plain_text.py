"""Texts of others that are shown to people: what cannot be seen could make them look like something else.

Control characters move the cursor of a terminal; those for the direction of writing turn their neighbours around.
"""

from __future__ import annotations

from typing import Final

JOINERS: Final = "\u200c\u200d"
"""They cannot be seen, and Persian and Indian languages need them within words. They change nothing around them."""


def is_plain(text: str) -> bool:
    """Whether a text has nothing but what can be seen, and joiners."""
    return all(each.isprintable() or each in JOINERS for each in text)


def plain(text: str) -> str:
    """A text with what cannot be seen written out: ``\\x1b``, ``\\u202e``."""
    return "".join(each if is_plain(each) else each.encode("unicode_escape").decode() for each in text)
