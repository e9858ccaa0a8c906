"""Archives of nodes, and of the directory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from homeserver.archives import backing_up, sealing
from homeserver.control.arguments import given, needed, node_called
from homeserver.protocol.errors import Conflict, InvalidParam

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.control.arguments import Arguments
    from homeserver.storage.nodes import Node

FOLDER: Final = "backups"
"""Where archives go that are given a name only."""


async def backup(server: Server, arguments: Arguments) -> dict[str, Any]:
    """Archive ``node`` into the file ``to``, an absolute path, or a name in the folder `FOLDER` of the data directory;
    sealed to ``key`` if that is given."""
    return await _begin(server, node_called(server, needed(arguments, "node")), arguments)


async def directory(server: Server, arguments: Arguments) -> dict[str, Any]:
    """Archive the directory as `backup` archives a node."""
    return await _begin(server, None, arguments)


async def _begin(server: Server, node: Node | None, arguments: Arguments) -> dict[str, Any]:
    path, text = Path(needed(arguments, "to")), given(arguments, "key")
    if path.name == str(path):
        path = server.settings.data_dir.resolve() / FOLDER / path
    if not path.is_absolute():
        raise InvalidParam("'to' must be an absolute path, or a name")
    try:
        key = None if text is None else sealing.public_key(text)
    except ValueError as error:
        raise InvalidParam(f"The public key cannot be used: {error}") from None
    try:
        if path.parent == server.settings.data_dir.resolve() / FOLDER:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return await backing_up.begin(server, node, path, key)
    except OSError as error:
        raise Conflict(f"{path} cannot be written: {error.strerror or error}") from None


async def progress(server: Server, _: Arguments) -> dict[str, Any]:
    """Wait for the end of what is being archived; ``done``, or how far it has come."""
    try:
        return await backing_up.progress(server)
    except OSError as error:
        raise Conflict(f"The backup could not be written: {error.strerror or error}") from None
