"""What jurisdictions are called, by their code, in the language of whoever reads.

The operator's name for one stands as it is, but for a name that everybody uses: that is translated.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from babel import Locale, UnknownLocaleError

from config.residency import UNKNOWN
from homeserver.pages.languages import SOURCE

if TYPE_CHECKING:
    from config.policy import Policy
    from homeserver.pages.languages import Language


def label(policy: Policy, spoken: Language, code: str) -> str:
    """A jurisdiction as a reader calls it: ``France (FR)``, ``فرانسه (FR)``."""
    if code == UNKNOWN:
        return spoken.text("places that this server does not know")
    return named(policy, spoken.code, code)


def named(policy: Policy, language: str, code: str) -> str:
    """A jurisdiction that the policy declares, as it is called in any language."""
    declared = policy.jurisdictions.get(code)
    if declared is None:
        return code
    usual = _territory(language, code) if declared.name in ("", code, _territory(SOURCE, code)) else None
    return declared.label if usual is None else f"{usual} ({code})"


@cache
def _territory(language: str, code: str) -> str | None:
    """What everybody calls a territory in a language."""
    try:
        return Locale.parse(language.replace("-", "_")).territories.get(code)
    except (UnknownLocaleError, ValueError):
        return None
