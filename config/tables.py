"""Tables of a configuration file as frozen dataclasses: each field says its kind and its meaning, and is read by it.

A field is ``name: Annotated[type, Setting(kind, "meaning")] = default``; without a default the key is required.
A dataclass's docstring documents its table. From these alone come the loader, the reference and the examples.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from config.kinds import Kind, SecretFile, Spot, Unfit, nearest


@dataclass(frozen=True, slots=True)
class Setting:
    """What a field of a table takes and means. ``example`` is for the reference, where the default shows little."""

    kind: Kind
    doc: str
    example: Any = None


class Line:
    """Marks the field that gets the line of the table's header in its file."""


class Name:
    """Marks the field that gets the name under which the table stands: ``tehran`` of ``[nodes.tehran]``."""


@dataclass(frozen=True, slots=True)
class TableField:
    """One key of a table."""

    attribute: str
    key: str
    setting: Setting
    default: Any  # MISSING when the key is required

    @property
    def required(self) -> bool:
        """Whether the key must be in the file."""
        return self.default is MISSING


@dataclass(frozen=True, slots=True)
class TableShape:
    """A table's dataclass, read."""

    fields: Mapping[str, TableField]  # by key
    line: str | None
    name: str | None


_shapes: dict[type, TableShape] = {}


def shape(table: type) -> TableShape:
    """The keys of a table's dataclass, in the order in which they are documented."""
    if table not in _shapes:
        _shapes[table] = _shape(table)
    return _shapes[table]


def _shape(table: type) -> TableShape:
    fields: dict[str, TableField] = {}
    marked: dict[type, str] = {}
    hints = get_type_hints(table, include_extras=True)
    for attribute in dataclasses.fields(table):
        hint = hints[attribute.name]
        mark = get_args(hint)[1] if get_origin(hint) is Annotated else None
        if not isinstance(mark, Setting):
            marked[type(mark)] = attribute.name
            continue
        default = attribute.default
        if attribute.default_factory is not MISSING:
            default = attribute.default_factory()
        key = attribute.name.rstrip("_") + mark.kind.key_suffix
        fields[key] = TableField(attribute.name, key, mark, default)
    return TableShape(fields, marked.get(Line), marked.get(Name))


def bind(table: type, raw: Mapping[str, Any], spot: Spot, defaults: Any = None, name: str = "") -> Any:
    """An instance of the dataclass ``table`` from a raw TOML table.

    Every mistake is recorded at its spot; a faulty value is stood in for, so the result may be used to look for
    further mistakes, but for nothing else when there were any. ``defaults`` is an instance whose values hold for
    absent keys.
    """
    its = shape(table)
    values: dict[str, Any] = {}
    for key in raw:
        if key not in its.fields:
            spot.child(key).fault(unknown_key(key, table, spot.reading.root))
    for key, field in its.fields.items():
        default = field.default if defaults is None else getattr(defaults, field.attribute)
        values[field.attribute] = value_of(field, default, raw, spot.child(key))
    if its.line:
        values[its.line] = spot.reading.lines.get(spot.path, 0)
    if its.name:
        values[its.name] = name
    return table(**values)


def value_of(field: TableField, default: Any, raw: Mapping[str, Any], spot: Spot) -> Any:
    """The value of one key: read, or its default, or a stand-in when it is faulty."""
    kind = field.setting.kind
    if field.key not in raw:
        if default is not MISSING:
            return kind.absent(default, spot)
        spot.fault(f"is missing; wanted {kind.wanted}")
        return kind.stand_in
    try:
        if isinstance(kind, TableOf):
            return kind.bound(raw[field.key], spot, None if default is MISSING or kind.whole else default)
        return kind.read(raw[field.key], spot)
    except Unfit as fault:
        spot.fault(str(fault))
        return kind.stand_in if default is MISSING else kind.absent(default, spot)


def unknown_key(key: str, table: type, root: type) -> str:
    """The complaint about a key that a table does not have: the nearest that it has, or the table that has it."""
    fields = shape(table).fields
    for field in fields.values():
        if isinstance(field.setting.kind, SecretFile) and key == field.attribute:
            variable = field.setting.kind.variable
            return f"a secret does not stand in this file: name a file with {field.key}, or set {variable}"
    meant = nearest(key, list(fields))
    if not meant and (owners := list(tables_with(key, root, "the top of the file"))):
        meant = f"it belongs in {' or '.join(owners)}"
    return f"unknown key; {meant or 'this table takes ' + ', '.join(fields)}"


def tables_with(key: str, table: type, title: str) -> Iterator[str]:
    """The titles of the tables of a file that have this key."""
    fields = shape(table).fields
    if key in fields:
        yield title
    for field in fields.values():
        kind = field.setting.kind
        if isinstance(kind, TableOf | TablesOf) and title == "the top of the file":
            yield from tables_with(
                key, kind.table, f"[[{field.key}]]" if isinstance(kind, TablesOf) else f"[{field.key}]"
            )


def inline(table: Any) -> str:
    """A table's instance as a TOML inline table, without the keys that have no value."""
    fields = shape(type(table)).fields.values()
    values = [(field, getattr(table, field.attribute)) for field in fields]
    return f"{{ {', '.join(f'{f.key} = {f.setting.kind.write(v)}' for f, v in values if v is not None)} }}"


@dataclass(frozen=True)
class TableOf(Kind):
    """A table with known keys: ``[federation]``. A ``whole`` one, when given, takes nothing over from its default."""

    table: type
    whole: bool = False

    @property
    def wanted(self) -> str:
        return "a table"

    @property
    def stand_in(self) -> Any:
        return None

    def read(self, raw: Any, spot: Spot) -> Any:
        return self.bound(raw, spot, None)

    def bound(self, raw: Any, spot: Spot, defaults: Any) -> Any:
        if not isinstance(raw, dict):
            raise self.unfit(raw)
        return bind(self.table, raw, spot, defaults)

    def absent(self, default: Any, spot: Spot) -> Any:
        return None if default is None else bind(self.table, {}, spot, default)

    def write(self, value: Any) -> str:
        return inline(value)


@dataclass(frozen=True)
class TablesOf(Kind):
    """An array of tables: ``[[listeners]]``; read as a tuple."""

    table: type
    stand_in = ()

    @property
    def wanted(self) -> str:
        return "a list of tables"

    def read(self, raw: Any, spot: Spot) -> tuple[Any, ...]:
        if not isinstance(raw, list):
            raise self.unfit(raw, "write [[ ]] around its name" if isinstance(raw, dict) else "")
        tables = []
        for index, element in enumerate(raw):
            if isinstance(element, dict):
                tables.append(bind(self.table, element, spot.child(index)))
            else:
                spot.child(index).fault(str(TableOf(self.table).unfit(element)))
        return tuple(tables)

    def write(self, value: Any) -> str:
        return "[\n" + "".join(f"    {inline(element)},\n" for element in value) + "]"


@dataclass(frozen=True)
class TableMap(Kind):
    """Tables by name: ``[nodes.tehran]``; read as a dictionary in the file's order."""

    table: type
    names: Kind
    example: str
    least: int = 0
    stand_in = {}  # noqa: RUF012 -- never written to

    @property
    def wanted(self) -> str:
        return f"tables by name, such as [{self.example}]"

    def read(self, raw: Any, spot: Spot) -> dict[str, Any]:
        if not isinstance(raw, dict):
            raise self.unfit(raw)
        if len(raw) < self.least:
            raise Unfit(f"wanted {self.wanted}, found none")
        return dict(self.entries(raw, spot))

    def entries(self, raw: Mapping[str, Any], spot: Spot) -> Iterator[tuple[str, Any]]:
        for name, element in raw.items():
            here = spot.child(name)
            try:
                self.names.read(name, here)
            except Unfit as fault:
                here.fault(str(fault))
            if isinstance(element, dict):
                yield name, bind(self.table, element, here, name=name)
            else:
                here.fault(str(TableOf(self.table).unfit(element, f"write [{'.'.join(map(str, here.path))}]")))
