"""All tables of the residency matrix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tests.matrix import (
    between_nodes_pushes,
    between_nodes_questions,
    between_nodes_relations,
    between_servers_pushes,
    between_servers_questions,
    between_servers_readings,
    between_servers_relations,
    between_servers_signatures,
    third_parties,
)
from tests.matrix.rows import Column, Row


@dataclass(frozen=True)
class Table:
    """Rows that are tried beside each other. ``about`` is their heading."""

    about: str
    rows: Sequence[Row]

    @property
    def columns(self) -> list[Column]:
        """The columns that its rows have."""
        return [column for column in Column if any(column in row.columns for row in self.rows)]


SERVERS = [
    Table("Relations", between_servers_relations.RELATIONS),
    Table("Told unasked", between_servers_pushes.PUSHES),
    Table("The events of a room", [row for each in between_servers_readings.READINGS for row in each.rows()]),
    Table("Questions", [*between_servers_questions.QUESTIONS, *between_servers_signatures.SIGNATURES]),
]
OTHERS = [Table("Others that are told something", third_parties.THIRD_PARTIES)]
NODES = [
    Table("Relations", between_nodes_relations.RELATIONS),
    Table("Told unasked", between_nodes_pushes.PUSHES),
    Table("Questions", between_nodes_questions.QUESTIONS),
]


def rows() -> list[Row]:
    """All rows."""
    return [row for table in (*SERVERS, *OTHERS, *NODES) for row in table.rows]
