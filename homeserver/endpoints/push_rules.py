"""Push rules, pushers, and what a user was notified of. spec: client-server-api/#push-notifications"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from homeserver.accounts import push_rules
from homeserver.protocol.push_rules import check_kind, read_actions, read_rule
from homeserver.push import notified, pushers
from homeserver.rooms import epochs, showing, tokens
from homeserver.web import reading
from homeserver.web.messages import Response, spliced
from homeserver.web.routes import Auth, route

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.protocol.push_rules import Rule
    from homeserver.web.messages import Request


@route(
    "GET",
    "/_matrix/client/v3/pushrules/",
    auth=Auth.USER,
    spec="client-server-api/#get_matrixclientv3pushrules",
    also=("r0", "/_matrix/client/v3/pushrules"),
)
async def rulesets(server: Server, request: Request) -> dict[str, Any]:
    """All rulesets, of which there is one."""
    return {"global": await ruleset(server, request)}


@route(
    "GET",
    "/_matrix/client/v3/pushrules/global/",
    auth=Auth.USER,
    spec="client-server-api/#get_matrixclientv3pushrulesglobal",
    also=("r0", "/_matrix/client/v3/pushrules/global"),
)
async def ruleset(server: Server, request: Request) -> dict[str, Any]:
    """The rules of each kind."""
    return (await push_rules.of_caller(request.caller)).as_json(request.caller.user_id)


async def _rule(request: Request) -> Rule:
    return (await push_rules.of_caller(request.caller)).find(request.args["kind"], request.args["ruleId"])


@route(
    "GET",
    "/_matrix/client/v3/pushrules/global/{kind}/{ruleId}",
    auth=Auth.USER,
    spec="client-server-api/#get_matrixclientv3pushrulesglobalkindruleid",
    also=("r0",),
)
async def rule(server: Server, request: Request) -> dict[str, Any]:
    """One rule."""
    return (await _rule(request)).as_json(request.caller.user_id)


@route(
    "PUT",
    "/_matrix/client/v3/pushrules/global/{kind}/{ruleId}",
    auth=Auth.USER,
    spec="client-server-api/#put_matrixclientv3pushrulesglobalkindruleid",
    also=("r0",),
)
async def put(server: Server, request: Request) -> dict[str, Any]:
    """Add or change a rule."""
    kind = request.args["kind"]
    made = read_rule(kind, request.args["ruleId"], request.json())
    before, after = request.query.get("before"), request.query.get("after")
    await push_rules.change(server, request.caller, lambda rules: rules.with_rule(kind, made, before, after))
    return {}


@route(
    "DELETE",
    "/_matrix/client/v3/pushrules/global/{kind}/{ruleId}",
    auth=Auth.USER,
    spec="client-server-api/#delete_matrixclientv3pushrulesglobalkindruleid",
    also=("r0",),
)
async def delete(server: Server, request: Request) -> dict[str, Any]:
    """Remove a rule."""
    kind, rule_id = request.args["kind"], request.args["ruleId"]
    await push_rules.change(server, request.caller, lambda rules: rules.without_rule(kind, rule_id))
    return {}


@route(
    "GET",
    "/_matrix/client/v3/pushrules/global/{kind}/{ruleId}/enabled",
    auth=Auth.USER,
    spec="client-server-api/#get_matrixclientv3pushrulesglobalkindruleidenabled",
    also=("r0",),
)
async def is_enabled(server: Server, request: Request) -> dict[str, Any]:
    """Whether a rule is enabled."""
    return {"enabled": (await _rule(request)).enabled}


@route(
    "PUT",
    "/_matrix/client/v3/pushrules/global/{kind}/{ruleId}/enabled",
    auth=Auth.USER,
    spec="client-server-api/#put_matrixclientv3pushrulesglobalkindruleidenabled",
    also=("r0",),
)
async def enable(server: Server, request: Request) -> dict[str, Any]:
    """Enable or disable a rule."""
    kind, rule_id = request.args["kind"], request.args["ruleId"]
    check_kind(kind)
    enabled = reading.boolean(request.json(), "enabled", required=True)
    await push_rules.change(server, request.caller, lambda rules: rules.with_enabled(kind, rule_id, enabled))
    return {}


@route(
    "GET",
    "/_matrix/client/v3/pushrules/global/{kind}/{ruleId}/actions",
    auth=Auth.USER,
    spec="client-server-api/#get_matrixclientv3pushrulesglobalkindruleidactions",
    also=("r0",),
)
async def actions(server: Server, request: Request) -> dict[str, Any]:
    """What a rule does."""
    return {"actions": list((await _rule(request)).actions)}


@route(
    "PUT",
    "/_matrix/client/v3/pushrules/global/{kind}/{ruleId}/actions",
    auth=Auth.USER,
    spec="client-server-api/#put_matrixclientv3pushrulesglobalkindruleidactions",
    also=("r0",),
)
async def set_actions(server: Server, request: Request) -> dict[str, Any]:
    """Change what a rule does."""
    kind, rule_id = request.args["kind"], request.args["ruleId"]
    check_kind(kind)
    wanted = read_actions(request.json())
    await push_rules.change(server, request.caller, lambda rules: rules.with_actions(kind, rule_id, wanted))
    return {}


@route(
    "GET",
    "/_matrix/client/v3/pushers",
    auth=Auth.USER,
    spec="client-server-api/#get_matrixclientv3pushers",
    also=("r0",),
)
async def all_pushers(server: Server, request: Request) -> dict[str, Any]:
    """The caller's pushers."""
    return {"pushers": await pushers.of_caller(request.caller)}


@route(
    "POST",
    "/_matrix/client/v3/pushers/set",
    auth=Auth.USER,
    spec="client-server-api/#post_matrixclientv3pushersset",
    also=("r0",),
)
async def set_pusher(server: Server, request: Request) -> dict[str, Any]:
    """Set or delete a pusher."""
    await pushers.put(server, request.caller, request.json())
    return {}


MOST_NOTIFICATIONS = 100
"""Notifications in one page."""


@route(
    "GET",
    "/_matrix/client/v3/notifications",
    auth=Auth.USER,
    spec="client-server-api/#get_matrixclientv3notifications",
    also=("r0",),
)
async def notifications(server: Server, request: Request) -> Response:
    """A page of what the caller was, or would have been, notified of, the newest first."""
    query, caller = request.query, request.caller
    limit = min(query.integer("limit", 20, low=1), MOST_NOTIFICATIONS)
    only = query.choice("only", ("", "highlight"), "")
    start = query.get("from")
    token = None if start is None else tokens.parse(start)
    # With a token of an earlier epoch: from the newest on once more.
    upto = caller.node.position if token is None or epochs.is_past(caller, token) else token.position
    page = await notified.page(server, caller, upto, limit, only == "highlight")
    parts = [b'{"notifications":', showing.array(page.shown)]
    if page.following is not None:
        parts.append(b',"next_token":"%s"' % tokens.between(page.following, caller.epoch).encode())
    return spliced(*parts, b"}")
