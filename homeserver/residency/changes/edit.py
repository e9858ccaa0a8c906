"""Changing a key of a policy's text, so that comments and order stay as they were."""

from __future__ import annotations

import tomllib
from copy import deepcopy
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from config.problems import KeyPath


def edited(text: str, path: KeyPath, value: Any) -> str:
    """The text with another value at a path, such as ``("nodes", "paris", "database")`` or ``("pins", 0, "node")``.

    Raises ValueError when the path leads nowhere, or the text cannot be changed without changing more than that.
    """
    import tomlkit  # not above: a server that runs holds no parser of comments

    document = tomlkit.parse(text)
    _put(document, path, value)
    changed = tomlkit.dumps(document)
    wanted = deepcopy(tomllib.loads(text))
    _put(wanted, path, value)
    if tomllib.loads(changed) != wanted:
        raise ValueError("this file cannot be changed by itself there; change it with an editor")
    return changed


def _put(document: Any, path: KeyPath, value: Any) -> None:
    *way, last = path
    for step in way:
        try:
            document = document[step]
        except (KeyError, IndexError, TypeError):
            raise ValueError(f"there is no {step} in it") from None
    try:
        document[last] = value
    except (IndexError, TypeError):
        raise ValueError(f"there is no {last} in it") from None
