"""What a command was given, read with the errors that its caller understands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from homeserver.protocol import identifiers
from homeserver.protocol.errors import BadJson, InvalidParam, MissingParam

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.storage.nodes import Node

Arguments = Mapping[str, Any]


def user_id_of(server: Server, name: str) -> str:
    """The user whom the operator means: a localpart or a whole user id."""
    return name if name.startswith("@") else identifiers.user_id(name, server.name)


def node_called(server: Server, name: str) -> Node:
    """The node that the operator means. Raises InvalidParam, which says what nodes there are."""
    found = next((node for node in server.nodes if node.name == name), None)
    if found is None:
        raise InvalidParam(f"There is no node {name}; there are {', '.join(node.name for node in server.nodes)}")
    return found


def given_node(server: Server, arguments: Arguments) -> str | None:
    """The name of the ``node`` that is asked about; None: all are. Raises BadJson, InvalidParam."""
    name = given(arguments, "node")
    return None if name is None else node_called(server, name).name


def given(arguments: Arguments, name: str) -> str | None:
    """A string. Raises BadJson."""
    value = arguments.get(name)
    if value is not None and (not isinstance(value, str) or "\0" in value):
        raise BadJson(f"'{name}' must be a string")
    return value


def needed(arguments: Arguments, name: str) -> str:
    """A string. Raises MissingParam, BadJson."""
    value = given(arguments, name)
    if value is None:
        raise MissingParam(f"'{name}' is missing")
    return value


def several(arguments: Arguments, name: str) -> list[str]:
    """Strings; none if there are none. Raises BadJson."""
    values = arguments.get(name) or []
    if not isinstance(values, list) or not all(isinstance(each, str) and "\0" not in each for each in values):
        raise BadJson(f"'{name}' must be a list of strings")
    return values
