"""Changing one key of a policy's text leaves comments, order and everything else as they were."""

from __future__ import annotations

import tomllib

import pytest

from config.problems import KeyPath
from homeserver.residency.changes.edit import Act, Edit, changed, edited

TEXT = """\
# the policy
serial = 7   # counts

[nodes.paris]  # by the river
database = "sqlite:paris/node.db"
media = "file:paris/media"

# who comes from where
[[pins]]
token = "fr-*"
node = "paris"
[[pins]]
token = "ir-*"
node = "tehran"   # far away

[changes]
approvers = [
    { name = "ann", key = "A" },  # the first
]
"""


@pytest.mark.parametrize(
    ("path", "value", "old", "new"),
    [
        (("serial",), 8, "serial = 7   # counts", "serial = 8   # counts"),
        (("nodes", "paris", "media"), "file:m", '"file:paris/media"', '"file:m"'),
        (("pins", 1, "node"), "lyon", 'node = "tehran"   #', 'node = "lyon"   #'),
        (("changes", "approvers", 0, "name"), "eve", 'name = "ann"', 'name = "eve"'),
    ],
)
def test_one_value_changes_and_nothing_else(path: KeyPath, value: object, old: str, new: str) -> None:
    assert TEXT.count(old) == 1
    assert edited(TEXT, path, value) == TEXT.replace(old, new)


def test_a_key_that_was_not_there_is_added() -> None:
    made = edited(TEXT, ("changes", "plan"), True)
    assert made.startswith(TEXT)
    assert made.removeprefix(TEXT).strip() == "plan = true"


@pytest.mark.parametrize("path", [("nodes", "rome", "media"), ("pins", 7, "node"), ("serial", "x")])
def test_a_path_that_leads_nowhere(path: KeyPath) -> None:
    with pytest.raises(ValueError, match="there is no"):
        edited(TEXT, path, 1)


def test_edits_one_after_the_other_leave_the_rest_as_it_was() -> None:
    made = changed(
        TEXT,
        [
            Edit(Act.REMOVE, ("pins", 0)),
            Edit(Act.APPEND, ("pins",), {"phone_prefix": "+33", "node": "paris"}),
            Edit(Act.APPEND, ("flows",), {"from": "IR", "to": ["FR"], "classes": ["events"]}),
            Edit(Act.APPEND, ("flows", 0, "classes"), "keys"),
            Edit(Act.PUT, ("nodes", "lyon"), {"database": "sqlite:lyon/node.db"}),
        ],
    )
    found = tomllib.loads(made)
    assert found["pins"] == [{"token": "ir-*", "node": "tehran"}, {"phone_prefix": "+33", "node": "paris"}]
    assert found["flows"] == [{"from": "IR", "to": ["FR"], "classes": ["events", "keys"]}]
    assert list(found["nodes"]) == ["paris", "lyon"]
    for comment in ("# the policy\n", "# counts\n", "# by the river\n", "# far away\n", "# the first\n"):
        assert made.count(comment) == 1
    assert made.index("# by the river") < made.index("# far away") < made.index("# the first")


@pytest.mark.parametrize(
    "edit",
    [
        Edit(Act.REMOVE, ("nodes", "rome")),
        Edit(Act.REMOVE, ("pins", 2)),
        Edit(Act.APPEND, ("serial",), 1),
        Edit(Act.APPEND, ("nodes", "paris", "media"), "x"),
        Edit(Act.APPEND, ("pins", 5), 1),
        Edit(Act.PUT, ("pins", "x"), 1),
        Edit(Act.PUT, ("serial", 0), 1),
        Edit(Act.PUT, (0, "x"), 1),
        Edit(Act.PUT, (0,), 1),
        Edit(Act.PUT, ("serial",), object()),
    ],
)
def test_an_edit_that_makes_no_sense(edit: Edit) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        changed(TEXT, [edit])
