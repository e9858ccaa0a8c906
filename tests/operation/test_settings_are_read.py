"""Every setting does something: each key of `domicile.toml` is read by the program."""

from __future__ import annotations

import ast
import dataclasses
import typing
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from config.sections.rate_limits import RateLimits
from config.settings import Settings
from homeserver.context import Server
from homeserver.web.routes import Table
from tests.conformance import endpoint_modules
from tests.sources import parsed

ROOT = Path(__file__).resolve().parents[2]

BY_NAME = {
    "rate_limits.*": "homeserver/app.py: buckets() reads each field by its name",
    "application_services.*": "config/load.py: load_application_services() reads each",
}
"""Sections that are read as a whole."""

Key = tuple[str, str]
"""The class of a section, and a field of it."""


def of_sections(module: str | None) -> bool:
    """Whether a module declares sections."""
    return module == Settings.__module__ or (module or "").startswith("config.sections.")


def inner(annotation: object) -> Iterator[type]:
    """The sections that a type mentions: ``tuple[Listener, ...]`` mentions `Listener`."""
    if dataclasses.is_dataclass(annotation) and isinstance(annotation, type) and of_sections(annotation.__module__):
        yield annotation
    for part in typing.get_args(annotation):
        yield from inner(part)


def keys(section: type = Settings, path: str = "") -> Iterator[tuple[str, Key]]:
    """Every key, by its path: ``listeners.tls.key`` is the field ``key`` of `Tls`."""
    for name, annotation in typing.get_type_hints(section).items():
        within = list(inner(annotation))
        if not within:
            yield path + name, (section.__name__, name)
        for each in within:
            yield from keys(each, f"{path}{name}.")


def sections(section: type = Settings) -> Iterator[type]:
    """A section and those inside it."""
    yield section
    for annotation in typing.get_type_hints(section).values():
        for each in inner(annotation):
            yield from sections(each)


SECTIONS = {each.__name__: each for each in sections()}
TYPES: dict[Key, str] = {
    (name, field): next((each.__name__ for each in inner(annotation) if each.__name__ in SECTIONS), "")
    for name, made in SECTIONS.items()
    for field, annotation in typing.get_type_hints(made).items()
}
"""What section a field of a section holds, if it holds one."""


class Reader(ast.NodeVisitor):
    """Finds what a function reads of settings, following names that were given a section.

    A variable is of a section's type when it is so annotated, when it is assigned or iterated from a field that is,
    or when it is called ``settings``.
    """

    def __init__(self, aliases: dict[str, str]) -> None:
        self.aliases = aliases
        self.variables: dict[str, str] = {}
        self.found: set[Key] = set()

    def kind(self, node: ast.AST | None) -> str:
        """The section that an expression is, or ""."""
        if isinstance(node, ast.Name):
            return self.variables.get(node.id, "Settings" if node.id == "settings" else "")
        if isinstance(node, ast.Attribute):
            if node.attr == "settings":
                return "Settings"
            owner = self.kind(node.value)
            if owner:
                self.found.add((owner, node.attr))
                return TYPES.get((owner, node.attr), "")
        return ""

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self.kind(node)
        self.generic_visit(node)

    def visit_arg(self, node: ast.arg) -> None:
        for name in ast.walk(node.annotation) if node.annotation else ():
            if isinstance(name, ast.Name) and name.id in self.aliases:
                self.variables[node.arg] = self.aliases[name.id]

    def visit_Assign(self, node: ast.Assign) -> None:
        for target in node.targets:
            pairs = [(target, node.value)]
            if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                pairs = list(zip(target.elts, node.value.elts, strict=False))
            for left, right in pairs:
                if isinstance(left, ast.Name) and (kind := self.kind(right)):
                    self.variables[left.id] = kind
        self.generic_visit(node)

    def visit_comprehension(self, node: ast.comprehension) -> None:
        if isinstance(node.target, ast.Name) and (kind := self.kind(node.iter)):
            self.variables[node.target.id] = kind
        self.generic_visit(node)

    def visit_ListComp(self, node: ast.ListComp | ast.GeneratorExp) -> None:
        for generator in node.generators:  # what it goes through stands behind what it makes of it
            self.visit(generator)
        self.visit(node.elt)

    def visit_GeneratorExp(self, node: ast.GeneratorExp) -> None:
        self.visit_ListComp(node)

    def visit_DictComp(self, node: ast.DictComp) -> None:
        for part in (*node.generators, node.key, node.value):
            self.visit(part)

    def visit_For(self, node: ast.For) -> None:
        if isinstance(node.target, ast.Name) and (kind := self.kind(node.iter)):
            self.variables[node.target.id] = kind
        self.generic_visit(node)


def read_in(source: str) -> set[Key]:
    """What the functions of a module read."""
    tree = parsed(source)
    aliases = {
        (name.asname or name.name): name.name
        for statement in ast.walk(tree)
        if isinstance(statement, ast.ImportFrom) and of_sections(statement.module)
        for name in statement.names
        if name.name in SECTIONS
    }
    found: set[Key] = set()
    functions = (each for each in ast.walk(tree) if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef))
    for function in functions:
        reader = Reader(aliases)
        reader.visit(function)
        found |= reader.found
    return found


@cache
def read_somewhere() -> frozenset[Key]:
    """What the program reads."""
    files = [path for top in ("homeserver", "federation") for path in (ROOT / top).rglob("*.py")]
    assert len(files) > 100
    read = {key for path in files for key in read_in(path.read_text(encoding="utf-8"))}
    own = {("Settings", "base_url"): ("public_base_url", "server_name"), ("Listener", "is_loopback"): ("address",)}
    for key, fields in own.items():  # properties of the settings themselves
        read |= {(key[0], field) for field in fields if key in read}
    return frozenset(read)


def listed(path: str, plans: dict[str, str]) -> bool:
    return path in plans or f"{path.partition('.')[0]}.*" in plans


@pytest.mark.parametrize(("path", "key"), list(keys()), ids=[path for path, _ in keys()])
def test_a_setting_is_read(path: str, key: Key) -> None:
    assert key in read_somewhere() or listed(path, BY_NAME)


def test_every_rate_limit_limits_something() -> None:
    table: Table[Server] = Table.of(*endpoint_modules())
    charged = {route.limit.value for route in table.routes}
    charged |= {field for section, field in read_somewhere() if section == "RateLimits"}
    planned = {"federation"}
    assert {field.name for field in dataclasses.fields(RateLimits)} - charged <= planned


def test_what_reads_is_seen() -> None:
    source = """
from config.sections.media import Media, Thumbnail
from config.sections.serving import Limits as Bounded

def direct(server): return server.settings.limits.max_body
def by_alias(server):
    node, rules = 1, server.settings.media
    return rules.max_pixels
def by_parameter(bounds: Bounded | None, media: "Media"): return bounds.connections
def in_a_loop(settings):
    for listener in settings.listeners:
        return listener.tls.key
def in_a_comprehension(sizes: Iterable[Thumbnail]): return [size.width for size in sizes], (s.height for s in sizes)
def of_something_else(other): return other.max_upload
"""
    assert read_in(source) & {(section, key) for _, (section, key) in keys()} == {
        ("Limits", "max_body"),
        ("Media", "max_pixels"),
        ("Limits", "connections"),
        ("Tls", "key"),
        ("Thumbnail", "width"),
        ("Thumbnail", "height"),
    }
