"""Accounts, roles and what users report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from homeserver.control.declarations import (
    FLAG,
    NUMBER,
    TEXT,
    Declared,
    Kept,
    Schema,
    listed,
    made_of,
    maybe,
    need,
    take,
)
from homeserver.protocol.roles import Role

LOOKING: Final = frozenset({Role.OPERATOR, Role.AUDITOR})
OPERATORS: Final = frozenset({Role.OPERATOR})
DOWN: Final[Schema] = listed(TEXT)
"""Nodes that could not be asked."""

_STATE: Final = listed({"enum": ["admin", "guest", "locked", "suspended", "deactivated"]})
_ROLES: Final = listed({"enum": [*Role]})
USER: Final = need("user", "A localpart or a user id of this server.", kept=Kept.PERSON)
_ROLE: Final = need("role", f"One of {', '.join(Role)}.", {"type": "string", "enum": [*Role]})
_PASSWORD: Final = need("password", "The password.", kept=Kept.NOTHING)

DECLARED: Final[Mapping[str, Declared]] = {
    "user-list": Declared(
        says="All accounts and their nodes",
        roles=LOOKING,
        changes=False,
        door=("GET", "/users"),
        answer=made_of(
            users=listed(made_of(user_id=TEXT, created_ts=NUMBER, state=_STATE, node=TEXT)),
            nodes_down=DOWN,
        ),
    ),
    "user-add": Declared(
        says="Make an account",
        roles=OPERATORS,
        changes=True,
        door=("POST", "/users"),
        arguments=(
            need("localpart", "The first part of the user id.", kept=Kept.PERSON),
            _PASSWORD,
            take("node", "The node where all their data rests; else the pins of the policy decide."),
            take("phone", "A verified phone number, with + and country code.", kept=Kept.NOTHING),
            take("admin", "Whether they have the role operator.", FLAG),
        ),
        answer=made_of(user_id=TEXT, node=TEXT),
    ),
    "user-show": Declared(
        says="One account: where it rests, its devices, phone numbers and addresses",
        roles=LOOKING,
        changes=False,
        door=("GET", "/users/{userId}"),
        arguments=(USER,),
        answer=made_of(
            user_id=TEXT,
            created_ts=NUMBER,
            state=_STATE,
            node=TEXT,
            jurisdiction=TEXT,
            pinned=maybe(made_of(how=TEXT, rule=TEXT, ts=NUMBER)),
            threepids=listed(made_of(medium=TEXT, address=TEXT)),
            devices=listed(made_of(device_id=TEXT, display_name=maybe(TEXT))),
        ),
    ),
    "user-deactivate": Declared(
        says="Deactivate an account for ever; its name is not given away again",
        roles=OPERATORS,
        changes=True,
        door=("POST", "/users/{userId}/deactivate"),
        arguments=(USER, take("erase", "Whether what they wrote is to be forgotten too.", FLAG)),
        answer=made_of(user_id=TEXT),
    ),
    "user-reset-password": Declared(
        says="Give an account another password, and log its devices out",
        roles=OPERATORS,
        changes=True,
        door=("POST", "/users/{userId}/password"),
        arguments=(USER, _PASSWORD),
        answer=made_of(user_id=TEXT),
    ),
    "user-role-list": Declared(
        says="All who have roles",
        roles=LOOKING,
        changes=False,
        door=("GET", "/roles"),
        arguments=(take("user", "Only this user: a localpart or a user id.", kept=Kept.PERSON),),
        answer=made_of(users=listed(made_of(user_id=TEXT, node=TEXT, roles=_ROLES)), nodes_down=DOWN),
    ),
    "user-role-add": Declared(
        says="Give somebody a role; nobody gives one to themselves",
        roles=OPERATORS,
        changes=True,
        door=("PUT", "/users/{userId}/roles/{role}"),
        arguments=(USER, _ROLE),
        answer=made_of(user_id=TEXT, roles=_ROLES),
    ),
    "user-role-remove": Declared(
        says="Take a role from somebody",
        roles=OPERATORS,
        changes=True,
        door=("DELETE", "/users/{userId}/roles/{role}"),
        arguments=(USER, _ROLE),
        answer=made_of(user_id=TEXT, roles=_ROLES),
    ),
    "report-list": Declared(
        says="What users have reported, oldest first",
        roles=LOOKING,
        changes=False,
        door=("GET", "/reports"),
        answer=made_of(
            reports=listed(
                made_of(
                    report_id=NUMBER,
                    reporter=TEXT,
                    ts=NUMBER,
                    room_id=maybe(TEXT),
                    event_id=maybe(TEXT),
                    about=maybe(TEXT),
                    reason=TEXT,
                    node=TEXT,
                )
            ),
            nodes_down=DOWN,
        ),
    ),
    "report-dismiss": Declared(
        says="Remove a report",
        roles=OPERATORS,
        changes=True,
        door=("DELETE", "/reports/{node}/{reportId}"),
        arguments=(need("node", "The node where it rests."), need("report_id", "Its number there.", NUMBER)),
        answer=made_of(),
    ),
}
