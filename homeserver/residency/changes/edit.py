"""Changing a policy's text here and there, so that comments and order stay as they were."""

from __future__ import annotations

import tomllib
from copy import deepcopy
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from config.problems import KeyPath


class Act(StrEnum):
    """What is done at a path."""

    PUT = "put"
    """Another value, or a new key."""
    APPEND = "append"
    """One more value at the end of a list, which may be none yet."""
    REMOVE = "remove"


@dataclass(frozen=True, slots=True)
class Edit:
    """One change. ``path`` leads to what is put or removed, or to the list that is appended to: such as ``("nodes",
    "paris", "database")``, ``("pins", 0, "node")`` or ``("flows",)``."""

    act: Act
    path: KeyPath
    value: Any = None


def edited(text: str, path: KeyPath, value: Any) -> str:
    """The text with another value at a path. Raises what `changed` raises."""
    return changed(text, [Edit(Act.PUT, path, value)])


def changed(text: str, edits: Sequence[Edit]) -> str:
    """The text after some edits, one after the other.

    Raises ValueError when a path leads nowhere, or the text cannot be changed without changing more than that.
    """
    import tomlkit  # not above: a server that runs holds no parser of comments
    from tomlkit.exceptions import TOMLKitError

    try:
        document, wanted = tomlkit.parse(text), tomllib.loads(text)
        for edit in edits:
            _do(document, edit)
            _do(wanted, edit)
        made = tomlkit.dumps(document)
        kept = tomllib.loads(made) == wanted
    except TOMLKitError as error:
        raise ValueError(str(error)) from None
    if not kept:
        raise ValueError("this file cannot be changed by itself there; change it with an editor")
    return made


def _do(document: Any, edit: Edit) -> None:
    *way, last = edit.path
    for step in way:
        try:
            document = document[step]
        except (LookupError, TypeError):
            raise ValueError(f"there is no {step} in it") from None
    try:
        if edit.act is Act.REMOVE:
            del document[last]
        elif edit.act is Act.PUT:
            document[last] = deepcopy(edit.value)
        elif isinstance(document, dict) and last not in document:
            document[last] = [deepcopy(edit.value)]
        else:
            document[last].append(deepcopy(edit.value))
    except (LookupError, TypeError, AttributeError):
        raise ValueError(f"there is no {last} in it") from None
