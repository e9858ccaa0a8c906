"""Which language a page is in, and what its texts are in it.

The texts of the templates are English; a catalogue beside them (gettext's form, read by Babel) has those of each other
language. A text that a catalogue lacks stays English.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from typing import Final

from babel import Locale, negotiate_locale
from babel.dates import format_date
from babel.messages.pofile import read_po
from babel.numbers import format_decimal
from babel.units import format_unit

SOURCE: Final = "en"
LANGUAGES: Final = (SOURCE, "fa", "fr", "ru")
_MOST: Final = 20
_UNITS: Final = (("digital-gigabyte", 3), ("digital-megabyte", 2), ("digital-kilobyte", 1), ("digital-byte", 0))


@dataclass(frozen=True, slots=True)
class Language:
    """A language that pages are in. ``direction`` is ``ltr`` or ``rtl``."""

    code: str
    direction: str
    texts: dict[str, str]

    def text(self, english: str) -> str:
        """A text of a page in this language."""
        return self.texts.get(english, english)

    def number(self, number: int) -> str:
        """A number as it is written in this language."""
        return format_decimal(number, locale=self.code, numbering_system="default")

    def day(self, ts: int) -> str:
        """The day of a moment (milliseconds since 1970) in UTC."""
        return format_date(datetime.fromtimestamp(ts / 1000, UTC), format="long", locale=self.code)

    def size(self, size: int) -> str:
        """About how many bytes."""
        unit, power = next((u, p) for u, p in _UNITS if size >= 1024**p or p == 0)
        return format_unit(
            round(size / 1024**power, 1 if power else 0),
            unit,
            length="short",
            locale=self.code,
            numbering_system="default",
        )


@cache
def language(code: str) -> Language:
    """One of `LANGUAGES`."""
    texts = {}
    if code != SOURCE:
        with (files(__package__) / "locales" / f"{code}.po").open("rb") as file:
            catalogue = read_po(file, locale=code)
        texts = {str(entry.id): str(entry.string) for entry in catalogue if entry.id and entry.string}
    return Language(code, Locale(code).text_direction, texts)


def choose(accepted: str | None, otherwise: Iterable[str] = ()) -> Language:
    """The language for a reader: the first that their browser accepts (RFC 9110, 12.5.4), else one of ``otherwise``."""
    for wanted in (_wanted(accepted or ""), list(otherwise)):
        found = negotiate_locale([code.replace("-", "_") for code in wanted], LANGUAGES)
        if found is not None:
            return language(found)
    return language(SOURCE)


def _wanted(accepted: str) -> list[str]:
    ranked = []
    for place, entry in enumerate(accepted[:1000].split(",")[:_MOST]):
        code, _, parameter = entry.strip().partition(";")
        name, _, value = parameter.strip().partition("=")
        try:
            weight = float(value) if name.strip() == "q" else 1.0
        except ValueError:
            continue
        if code.replace("-", "").isascii() and code.replace("-", "").isalnum() and 0 < weight <= 1:
            ranked.append((-weight, place, code))
    return [code for _, _, code in sorted(ranked)]
