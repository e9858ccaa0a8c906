"""How a command is declared: who may give it, whether it changes anything, what it takes, and what it answers.

The admin API's routes, its OpenAPI document and what the log keeps of arguments all follow from this. The schemas are
those of JSON Schema, in the part of it that OpenAPI 3.1 has.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

from homeserver.protocol.errors import BadJson, InvalidParam, MissingParam
from homeserver.protocol.roles import Role

if TYPE_CHECKING:
    from collections.abc import Iterable

Schema = Mapping[str, Any]

TEXT: Final[Schema] = {"type": "string"}
NUMBER: Final[Schema] = {"type": "integer"}
FLAG: Final[Schema] = {"type": "boolean"}
ANYTHING: Final[Schema] = {}


def listed(of: Schema) -> Schema:
    """A list."""
    return {"type": "array", "items": of}


def maybe(of: Schema) -> Schema:
    """That, or null."""
    return {"anyOf": [of, {"type": "null"}]}


def by_name(of: Schema) -> Schema:
    """An object with values of one kind under names of any kind."""
    return {"type": "object", "additionalProperties": of}


def made_of(optional: Mapping[str, Schema] | None = None, /, **fields: Schema) -> Schema:
    """An object with these fields; a trailing ``_`` of a name is left out, for words of the language."""
    named = {name.rstrip("_"): schema for name, schema in fields.items()}
    return {"type": "object", "properties": {**named, **(optional or {})}, "required": [*named]}


def one_of(*schemas: Schema) -> Schema:
    """One of several forms."""
    return {"anyOf": [*schemas]}


class Kept(Enum):
    """What the log keeps of an argument."""

    WHOLE = auto()
    PERSON = auto()  # it names somebody: whole, where that may rest
    DIGEST = auto()  # SHA-256 of a text
    NOTHING = auto()  # not even that it was there


LONGEST: Final = 200
"""Characters of an argument in the log."""
GREATEST: Final = 2**53 - 1


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument of a command."""

    name: str
    says: str
    schema: Schema = field(default_factory=lambda: TEXT)
    needed: bool = False
    kept: Kept = Kept.WHOLE

    def checked(self, value: Any) -> Any:
        """The value, which must be what the schema says. Raises BadJson, InvalidParam."""
        kind = self.schema.get("type")
        if kind is not None and not _is(value, kind):
            raise BadJson(f"'{self.name}' must be a JSON {kind}")
        pattern = self.schema.get("pattern")
        if pattern is not None and not re.fullmatch(pattern, value):
            raise InvalidParam(f"'{self.name}' is not what it may be: {self.says}")
        return value

    def from_text(self, text: str) -> Any:
        """The value that stands in an address. Raises InvalidParam, BadJson."""
        kind = self.schema.get("type")
        if kind == "integer":
            if not re.fullmatch("-?[0-9]{1,16}", text, re.ASCII):
                raise InvalidParam(f"'{self.name}' must be an integer")
            return int(text)
        if kind == "boolean":
            if text not in ("true", "false"):
                raise InvalidParam(f"'{self.name}' must be true or false")
            return text == "true"
        return self.checked(text)


def _is(value: Any, kind: str) -> bool:
    return isinstance(value, _KINDS[kind]) and (kind == "boolean" or not isinstance(value, bool))


_KINDS: Final[Mapping[str, type]] = {"string": str, "integer": int, "boolean": bool, "array": list, "object": dict}


def need(name: str, says: str, schema: Schema = TEXT, kept: Kept = Kept.WHOLE) -> Argument:
    """An argument that must be given."""
    return Argument(name, says, schema, True, kept)


def take(name: str, says: str, schema: Schema = TEXT, kept: Kept = Kept.WHOLE) -> Argument:
    """An argument that may be given."""
    return Argument(name, says, schema, False, kept)


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """A command as it is declared. ``door``: method and path under ``/_domicile/v1``, or None for what is done at the
    machine only, and ``why`` then. ``roles``: any of them will do. ``looks_if``: an argument with which nothing is
    changed."""

    says: str
    roles: frozenset[Role]
    changes: bool
    answer: Schema
    arguments: tuple[Argument, ...] = ()
    door: tuple[str, str] | None = None
    why: str = ""
    looks_if: str | None = None
    large: bool = False
    """Whether its arguments may be as long as a policy."""

    @property
    def segments(self) -> tuple[str, ...]:
        """The named segments of its path."""
        return () if self.door is None else tuple(re.findall(r"\{(\w+)\}", self.door[1]))

    def is_change(self, arguments: Mapping[str, Any]) -> bool:
        """Whether it changes anything with these arguments."""
        return self.changes and not (self.looks_if is not None and bool(arguments.get(self.looks_if)))

    def person(self, arguments: Mapping[str, Any]) -> str | None:
        """Whom the arguments name."""
        for argument in self.arguments:
            if argument.kept is Kept.PERSON and isinstance(name := arguments.get(argument.name), str):
                return name
        return None

    def kept(self, arguments: Mapping[str, Any], *, persons: bool) -> dict[str, Any]:
        """What the log keeps of arguments; ``persons``: whether it may say whom they name."""
        found = {}
        for argument in self.arguments:
            value = arguments.get(argument.name)
            if value is None or argument.kept is Kept.NOTHING or (argument.kept is Kept.PERSON and not persons):
                continue
            if argument.kept is Kept.DIGEST:
                if isinstance(value, str):
                    found[f"{argument.name}_sha256"] = sha256(value.encode()).hexdigest()
            else:
                found[argument.name] = plain(value)
        return found


def plain(value: Any) -> Any:
    """A value as it can stand in the log, whatever somebody has given."""
    if isinstance(value, bool) or (isinstance(value, int) and abs(value) <= GREATEST):
        return value
    text = value if isinstance(value, str) else f"({type(value).__name__})"
    return text if len(text) <= LONGEST else text[:LONGEST] + "…"


SEGMENTS: Final = {"userId": "user", "reportId": "report_id"}
"""The arguments that have another name in a path."""


def argument_of(segment: str) -> str:
    """The argument that a named segment of a path is."""
    return SEGMENTS.get(segment, segment)


def arguments_of_request(
    declared: Declared, path: Mapping[str, str], query: Iterable[tuple[str, str]], body: Mapping[str, Any]
) -> dict[str, Any]:
    """The arguments as a request gives them. Raises InvalidParam for what is none, MissingParam, BadJson."""
    known = {argument.name: argument for argument in declared.arguments}
    in_path = path_arguments(declared, path)
    found: dict[str, Any] = dict(in_path)
    for name, text in query:
        found[name] = _known(known, in_path, name).from_text(text)
    for name, value in body.items():
        argument = _known(known, in_path, name)
        if value is not None:
            found[name] = argument.checked(value)
    for argument in declared.arguments:
        if argument.needed and argument.name not in found:
            raise MissingParam(f"'{argument.name}' is missing")
    return found


def path_arguments(declared: Declared, path: Mapping[str, str]) -> dict[str, Any]:
    """The arguments that stand in the path. Raises InvalidParam, BadJson."""
    known = {argument.name: argument for argument in declared.arguments}
    return {argument_of(name): known[argument_of(name)].from_text(text) for name, text in path.items()}


def _known(known: Mapping[str, Argument], in_path: Mapping[str, Any], name: str) -> Argument:
    if name not in known or name in in_path:
        there = ", ".join(name for name in known if name not in in_path)
        raise InvalidParam(f"There is no parameter {name[:60]} here; there are: {there or 'none'}")
    return known[name]
