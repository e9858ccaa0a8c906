"""Changing one key of a policy's text leaves comments, order and everything else as they were."""

from __future__ import annotations

import pytest

from config.problems import KeyPath
from homeserver.residency.changes.edit import edited

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
    changed = edited(TEXT, ("changes", "plan"), True)
    assert changed.startswith(TEXT)
    assert changed.removeprefix(TEXT).strip() == "plan = true"


@pytest.mark.parametrize("path", [("nodes", "rome", "media"), ("pins", 7, "node"), ("serial", "x")])
def test_a_path_that_leads_nowhere(path: KeyPath) -> None:
    with pytest.raises(ValueError, match="there is no"):
        edited(TEXT, path, 1)
