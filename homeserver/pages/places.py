"""What jurisdictions are called, by their code, in the language of whoever reads.

The operator's name for one stands as it is, but for a name that everybody uses: that is translated.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Final, NamedTuple

from babel import Locale, UnknownLocaleError

from config.residency import UNKNOWN
from homeserver.pages.languages import LANGUAGES, SOURCE, language

if TYPE_CHECKING:
    from collections.abc import Iterable

    from config.policy import Policy
    from homeserver.pages.languages import Language

RESTS: Final = "Your data rests in: %(jurisdiction)s."


def label(policy: Policy, spoken: Language, code: str) -> str:
    """A jurisdiction as a reader calls it: ``France (FR)``, ``فرانسه (FR)``."""
    if code == UNKNOWN:
        return spoken.text("places that this server does not know")
    return named(policy, spoken.code, code)


def named(policy: Policy, spelt: str, code: str) -> str:
    """A jurisdiction that the policy declares, as it is called in any language."""
    declared = policy.jurisdictions.get(code)
    if declared is None:
        return code
    usual = _territory(spelt, code) if declared.name in ("", code, _territory(SOURCE, code)) else None
    return declared.label if usual is None else f"{usual} ({code})"


class Choice(NamedTuple):
    """A node between which and others somebody chooses. ``own``: what its place is called there."""

    node: str
    label: str
    own: list[Own]


class Own(NamedTuple):
    """A jurisdiction in a language of its own. ``sentence``: that data rests there; the name alone where the pages do
    not speak the language."""

    language: str
    direction: str
    sentence: str


def choices(policy: Policy, spoken: Language, nodes: Iterable[str]) -> list[Choice]:
    """Nodes to choose from, as a reader calls their places, and as these are called there."""
    return [_choice(policy, spoken, node) for node in nodes]


def _choice(policy: Policy, spoken: Language, node: str) -> Choice:
    code = policy.jurisdiction_of_node(node)
    known = [(spelt, _locale(spelt)) for spelt in policy.jurisdictions[code].languages]
    others = [(spelt, locale) for spelt, locale in known if locale is not None and locale.language != spoken.code]
    return Choice(node, label(policy, spoken, code), [_own(policy, code, *other) for other in others])


def _own(policy: Policy, code: str, spelt: str, locale: Locale) -> Own:
    name = named(policy, spelt, code)
    if locale.language in LANGUAGES:
        name = language(locale.language).text(RESTS) % {"jurisdiction": name}
    return Own(spelt, locale.text_direction, name)


@cache
def _locale(spelt: str) -> Locale | None:
    try:
        return Locale.parse(spelt.replace("-", "_"))
    except (UnknownLocaleError, ValueError):
        return None


@cache
def _territory(spelt: str, code: str) -> str | None:
    """What everybody calls a territory in a language."""
    locale = _locale(spelt)
    return None if locale is None else locale.territories.get(code)
