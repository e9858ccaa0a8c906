"""The residency matrix as a page, docs/residency-matrix.md, which is written from the rows that are tried.

python -m tests.matrix --write      writes it
python -m tests.matrix --check      says whether it is as it would be written
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from config.residency import DataClass, Leaves
from tests.matrix.asked import places, routes
from tests.matrix.elsewhere import ONLY_TELL, TESTED_ALONE, WITHOUT_DATA
from tests.matrix.never import KINDS
from tests.matrix.rows import FAR, OUT, Row
from tests.matrix.tables import NODES, OTHERS, SERVERS, Table, rows

PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "residency-matrix.md"

NOTHING = "none: nothing of it is found elsewhere"
HEAD = """\
# The residency matrix

Every way in which data crosses a border, and what comes of it by how the other side stands in the policy. This page
is written from the rows that `tests/matrix` tries (`python -m tests.matrix --write`). Each cell stands for real
requests, of which the answer, the bytes on the wire, and the bytes at rest and shown on the other side are looked at.
Where a flow is denied, each flow that the row needs is left out once, while all others are there. Where data goes, the
same bytes are found, which shows that they would have been. What the classes are and what the rules mean is said in
[residency.md](residency.md).

- **class**: what has to flow. *Out* leads from where we look to the other side, *in* from there; *afar* from another
  place of ours, by whose users it is.
- **goes**: it arrives as if there were no border. *Withheld*: not sent, nor later. *Waits*: not sent, and found on
  the other side when everything flows again. *Dropped*: not taken in. *Left out*: not told, beside what may be.
  *Not asked*: the other side does not hear of the question. 403 is an answer that names the missing flow.
- **isolated**: while an [isolation](residency.md#being-cut-off) lies between, though everything flows. What others
  send in spite of it is *taken in*.
- **unknown**: the policy does not say where the other server stands.

"""


def written() -> str:
    """The page."""
    return "".join(_written()).rstrip() + "\n"


def _written() -> Iterator[str]:
    yield HEAD
    yield "## Between our server and another one\n\n*Ours* is done here, *theirs* there.\n\n"
    yield from _tables(SERVERS)
    yield "## From our server to others that are no Matrix servers\n\n"
    yield from _tables(OTHERS)
    yield "## Between two nodes of one deployment\n\n"
    yield "Inside a jurisdiction everything flows.\n\n"
    yield from _tables(NODES)
    yield "## By data class\n\n"
    yield "Of what never leaves, values are planted before the rows are tried, and looked for afterwards in all that\n"
    yield "has left, in all files elsewhere, and in the directory:\n"
    yield f"{', '.join(KINDS)}, access token, password, address of the machine, user agent.\n\n"
    yield "| class | may it leave | rows |\n|---|---|---|\n"
    for each in DataClass:
        count = sum(any(name == needed_by(each) for _, name in row.needs) for row in rows())
        yield f"| `{each}` | {each.leaves.value} | {NOTHING if each.leaves is Leaves.NEVER else count} |\n"
    yield "\n## Where the policy is asked\n\n"
    found = places()
    yield f"{len(found)} functions ask the policy whether something may go. For these rows it was asked there,\n"
    yield "and said no; the others have tests of their own, or only tell what the policy says.\n\n"
    yield "| function | asked for |\n|---|---|\n"
    for place in sorted(found):
        hooks = [row.hook for row in rows() if place in row.asks]
        why = ", ".join(dict.fromkeys(hooks)) or TESTED_ALONE.get(place) or ONLY_TELL[place]
        yield f"| `{place}` | {why} |\n"
    yield "\n## Requests between servers that carry no data of users\n\n| route | what it is |\n|---|---|\n"
    yield from (f"| `{route}` | {WITHOUT_DATA[route]} |\n" for route in sorted(routes() & set(WITHOUT_DATA)))


def needed_by(data_class: DataClass) -> str:
    """The class that a flow names for it: messages to devices go where keys may."""
    return DataClass.KEYS.value if data_class is DataClass.MAILBOX else data_class.value


def _tables(tables: Sequence[Table]) -> Iterator[str]:
    for table in tables:
        heads = ["hook", "class", *(column.value for column in table.columns)]
        if len(tables) > 1:
            yield f"### {table.about}\n\n"
        yield f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}\n"
        for row in table.rows:
            cells = [row.cell(column) for column in table.columns]
            yield f"| {' | '.join([_hook(row), _classes(row), *cells])} |\n"
        yield "\n"


def _hook(row: Row) -> str:
    return " ".join(f"`{word}`" if "_" in word or "." in word else word for word in row.hook.split())


def _classes(row: Row) -> str:
    ways = {name: "" for _, name in row.needs}
    for name in ways:
        of = [way for way, each in row.needs if each == name]
        ways[name] = "both ways" if len(of) > 1 else "afar" if of == [FAR] else "out" if of == [OUT] else "in"
    return ", ".join(f"`{name}` {way}" for name, way in ways.items())


def main(arguments: Sequence[str]) -> int:
    """Write the page, or compare it; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.matrix", description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--write", action="store_true")
    what.add_argument("--check", action="store_true")
    if parser.parse_args(arguments).write:
        PAGE.write_text(written(), "utf-8")
        return 0
    if PAGE.exists() and PAGE.read_text("utf-8") == written():
        return 0
    print(f"{PAGE.name} is stale; to write it anew: python -m tests.matrix --write", file=sys.stderr)
    return 1
