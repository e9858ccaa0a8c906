"""Who may make and remove ids that are in the namespaces of application services.

spec: application-service-api/#server-admin-style-permissions
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from homeserver.protocol.errors import Exclusive

if TYPE_CHECKING:
    from config.application_services import ApplicationService
    from homeserver.context import Server


def check_user(server: Server, user_id: str, service: ApplicationService | None) -> None:
    """Whether a user may be made, or logged in, by a service, or by somebody else (None). Raises Exclusive."""
    if service is not None and not service.has_user(user_id):
        raise Exclusive("That user ID is not in the namespace of this application service")
    if server.services.excluding_from_user(user_id, service) is not None:
        raise Exclusive("That user ID belongs to an application service")


def check_alias(server: Server, alias: str, service: ApplicationService | None) -> None:
    """Whether a room alias may be made or removed by a service, or by somebody else (None). Raises Exclusive."""
    if service is not None and not service.has_alias(alias):
        raise Exclusive("That room alias is not in the namespace of this application service")
    if server.services.excluding_from_alias(alias, service) is not None:
        raise Exclusive("That room alias belongs to an application service")
