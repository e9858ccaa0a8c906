"""What goes into PostgreSQL and comes out has the types that SQLite has."""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg import pq
from psycopg.abc import Buffer
from psycopg.adapt import AdaptersMap, Dumper, Loader
from psycopg.types.numeric import Int8Dumper, NumericBinaryLoader


class _TruthAsNumber(Dumper):
    """``True`` goes in as 1, as it does with SQLite."""

    oid = psycopg.adapters.types["int8"].oid

    def dump(self, obj: bool) -> Buffer:
        return b"1" if obj else b"0"


class _Truth(Loader):
    """A comparison comes out as 0 or 1, as it does with SQLite."""

    format = pq.Format.BINARY

    def load(self, data: Buffer) -> int:
        return int(bytes(data) != b"\x00")


class _Number(NumericBinaryLoader):
    """The sum of integers is an integer, any other number that is not one a float."""

    def load(self, data: Buffer) -> Any:
        number = super().load(data)
        return int(number) if number.as_tuple().exponent == 0 else float(number)


def adapt(adapters: AdaptersMap) -> None:
    """Make a connection take and give the values of `engine.Param` and `engine.Row`."""
    adapters.register_dumper(int, Int8Dumper)
    adapters.register_dumper(bool, _TruthAsNumber)
    adapters.register_loader("bool", _Truth)
    adapters.register_loader("numeric", _Number)
