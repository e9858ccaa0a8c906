"""The catalogues say everything that pages say, and nothing else; what is put into a text stands in its translation."""

from __future__ import annotations

import ast
import io
import re
from functools import cache
from importlib.resources import files
from pathlib import Path

import pytest
from babel.messages.pofile import read_po
from jinja2.ext import babel_extract

from homeserver import pages
from homeserver.pages.languages import LANGUAGES, SOURCE, choose, language

ROOT = Path(__file__).resolve().parents[2]
TRANSLATED = [code for code in LANGUAGES if code != SOURCE]
PLACE = re.compile(r"%\(\w+\)s")


@cache
def in_templates() -> frozenset[str]:
    found = set()
    for template in (files(pages) / "templates").iterdir():
        file = io.BytesIO(template.read_bytes())
        for _, _, message, _ in babel_extract(file, ("_", "gettext"), [], {}):
            found.add(message if isinstance(message, str) else (message or ("",))[0] or "")
    return frozenset(found)


@cache
def in_code() -> frozenset[str]:
    """Every text of the program."""
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in (ROOT / "homeserver").rglob("*.py")]
    return frozenset(
        node.value
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    )


def spoken_by(path: Path) -> set[str]:
    """What the functions of a module pass through a language, or refuse with."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in ("text", "said"):
                found.add(str(node.args[0].value))
    return found


@pytest.mark.parametrize("code", TRANSLATED)
def test_each_language_has_what_the_templates_say(code: str) -> None:
    assert in_templates() - language(code).texts.keys() == set()
    assert len(in_templates()) > 50


@pytest.mark.parametrize("code", TRANSLATED)
def test_each_language_has_what_the_endpoints_say(code: str) -> None:
    modules = (
        "account_pages",
        "authenticating",
        "authorization",
        "browsing",
        "consent",
        "crossing",
        "signing_in",
        "sso",
        "threepid_proofs",
    )
    said = set().union(*(spoken_by(ROOT / "homeserver" / "endpoints" / f"{name}.py") for name in modules))
    assert "That did not work" in said
    assert said - language(code).texts.keys() == set()


@pytest.mark.parametrize("code", TRANSLATED)
def test_nothing_is_translated_that_nobody_says(code: str) -> None:
    assert language(code).texts.keys() - in_templates() - in_code() == set()


@pytest.mark.parametrize("code", TRANSLATED)
def test_a_translation_has_the_places_of_its_text(code: str) -> None:
    with (files(pages) / "locales" / f"{code}.po").open("rb") as file:
        catalogue = read_po(file, locale=code)
    entries = [entry for entry in catalogue if entry.id]
    assert [entry.id for entry in entries if not entry.string or entry.fuzzy] == []
    for entry in entries:
        assert set(PLACE.findall(str(entry.id))) == set(PLACE.findall(str(entry.string))), entry.id
        assert "%" not in PLACE.sub("", str(entry.string))


def test_who_reads_from_right_to_left() -> None:
    assert {code: language(code).direction for code in LANGUAGES} == {
        "en": "ltr",
        "fa": "rtl",
        "fr": "ltr",
        "ru": "ltr",
    }


def test_the_browser_is_asked_before_the_jurisdiction() -> None:
    assert choose("ru, fa;q=0.5", ["fr"]).code == "ru"
    assert choose("xx", ["xx", "fr-CA"]).code == "fr"
    assert choose(None).code == "en"
    assert choose("fr;q=0, en;q=0").code == "en"
