"""Nothing crosses a border that the residency matrix does not know: what is in the source is held against its rows."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from config.residency import DataClass, Leaves
from federation.edus import READERS
from homeserver.jobs import PARCELS
from tests.conformance import is_test
from tests.matrix import asked, page
from tests.matrix.elsewhere import KINDS_ALONE, ONLY_TELL, TESTED_ALONE, WITHOUT_DATA
from tests.matrix.never import KINDS
from tests.matrix.rows import Column
from tests.matrix.tables import NODES, OTHERS, SERVERS, Table, rows


def test_every_place_that_asks_the_policy_has_a_row() -> None:
    known = {site for row in rows() for site in row.asks}
    assert known | {*ONLY_TELL, *TESTED_ALONE} == asked.places()
    assert not known & {*ONLY_TELL, *TESTED_ALONE}


def test_what_is_tested_alone_is_tested() -> None:
    for test in [*TESTED_ALONE.values(), *KINDS_ALONE.values()]:
        assert is_test(test), test


def test_every_route_for_other_servers_has_a_row() -> None:
    known = {route for table in SERVERS for row in table.rows for route in row.routes}
    assert known | set(WITHOUT_DATA) == asked.routes()


def test_every_type_of_edu_has_a_row_each_way() -> None:
    for kind in READERS:
        ways = {way for table in SERVERS for row in table.rows if kind in row.kinds for way, _ in row.needs}
        assert ways == {"out", "in"}, kind


def test_every_kind_of_parcel_has_a_row() -> None:
    known = {kind for table in NODES for row in table.rows for kind in row.kinds}
    assert known | set(KINDS_ALONE) == set(PARCELS)


@pytest.mark.parametrize("tables", [[*SERVERS, *OTHERS], NODES], ids=["servers and others", "nodes"])
def test_every_class_that_may_leave_has_a_row(tables: list[Table]) -> None:
    needed = {name for table in tables for row in table.rows for _, name in row.needs}
    may = {page.needed_by(each) for each in DataClass if each.leaves is not Leaves.NEVER}
    assert needed == may - ({"notifications"} if tables is NODES else set())


def test_no_row_needs_a_class_that_never_leaves() -> None:
    assert {name for row in rows() for _, name in row.needs} <= {each.value for each in DataClass}
    never = {each.value for each in DataClass if each.leaves is Leaves.NEVER}
    assert not {name for row in rows() for _, name in row.needs} & never
    assert {each.value for each, _ in KINDS.values()} | {DataClass.SESSIONS.value} == never


def test_each_denial_is_said() -> None:
    for row in rows():
        assert row.says or Column.DENIED not in row.columns, row.hook


def test_the_page_is_as_it_would_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert page.main(["--check"]) == 0
    monkeypatch.setattr(page, "PAGE", tmp_path / "residency-matrix.md")
    assert page.main(["--check"]) == 1
    assert page.main(["--write"]) == 0
    assert page.main(["--check"]) == 0


def test_a_place_that_asks_is_found() -> None:
    source = """
class Door:
    def opens(self):
        return [gate.may(x) for x in ()]
def asks(policy):
    def inner():
        return policy.may(1)
    return inner
def does_not(other):
    return other.check(2), gate.denied(3)
"""
    assert list(asked.functions(ast.parse(source), "")) == ["Door.opens", "asks"]
