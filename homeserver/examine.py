"""``domicile check``: what would keep a deployment from serving, beyond faults in its files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from homeserver import app
from homeserver.runtime.clock import SystemClock
from homeserver.storage.connect import engine_for
from homeserver.web.server import ServerCertificate

if TYPE_CHECKING:
    from config.policy import Policy
    from config.settings import Settings


async def problems(settings: Settings, policy: Policy) -> list[str]:
    """Everything that is wrong, one sentence each. Changes nothing."""
    found = []
    try:
        app.signing_key(settings)
    except app.StartError as error:
        found.append(str(error))
    for listener in settings.listeners:
        if listener.tls is not None:
            try:
                ServerCertificate(listener.tls.certificate, listener.tls.key)
            except Exception as error:
                found.append(f"the certificate of {listener.address} port {listener.port} cannot be used: {error}")
    for place in policy.nodes.values():
        if place.engine == "sqlite":
            parent = place.database_path(settings.data_dir).parent
            if parent.exists() and not parent.is_dir():
                found.append(f"node {place.name}: {parent} is not a directory")
            continue
        engine = engine_for(place.name, app.address_of(place), (), root=settings.data_dir, clock=SystemClock())
        await engine.open()
        health = await engine.probe()
        await engine.close()
        if not health.up:
            found.append(f"node {place.name}: its database does not answer: {health.reason}")
    return found
