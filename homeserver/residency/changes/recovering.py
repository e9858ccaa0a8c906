"""What has to be done once the version of a plan is in force: its text stands in the file. Done again until it is."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

from config.load import policy_from_text
from homeserver.protocol import policy_chain
from homeserver.residency.changes import chain, file
from homeserver.storage import policy_plans, policy_versions

if TYPE_CHECKING:
    from pathlib import Path

    from config.residency import NodePlace
    from homeserver.storage.engine import Engine, Transaction


async def recover(routes: Engine, path: Path) -> list[str] | None:
    """Bring to its end what has to be done once a version is in force: its text stands in the file. Returns what there
    is to tell, or None when there was nothing to do. Raises OSError.

    What somebody has written into the file since the plan was begun stays there, as a draft of the next version.
    """
    journal = await routes.read(policy_plans.application)
    if journal is None or not journal.recorded:
        return None
    notes = []
    there = await asyncio.to_thread(file.found, path)
    if there is not None and policy_chain.digest(there) not in (journal.replaced, policy_chain.digest(journal.text)):
        notes.append(f"{path} was changed meanwhile and is left as it is; it is not what is in force")
    elif there != journal.text:
        if there is not None and not await routes.read(_was_in_force, policy_chain.digest(there)):
            aside = await asyncio.to_thread(file.keep_beside, path, there)
            notes.append(f"what stood in {path} was never in force, and is kept as {aside}")
        await asyncio.to_thread(file.put, path, journal.text)
    await routes.write(policy_plans.end)
    return notes


async def _was_in_force(tx: Transaction, digest: str) -> bool:
    after = -1
    while links := await policy_versions.page(tx, after, chain.AT_ONCE):
        if any(policy_chain.digest(link.text) == digest for link in links):
            return True
        after = links[-1].serial
    return False


async def half_moved(routes: Engine, server_name: str, path: Path) -> list[NodePlace]:
    """The nodes of a plan that was begun and moves users: some may rest there already, so they are opened too."""
    journal = await routes.read(policy_plans.application)
    if journal is None or journal.recorded or not journal.moves:
        return []
    return list(policy_from_text(journal.text, str(path), server_name, environ=os.environ).nodes.values())
