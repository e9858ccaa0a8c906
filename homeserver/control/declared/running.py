"""Keeping the deployment running: backups, isolation, and the log of what administrators do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from homeserver.control.declarations import (
    ANYTHING,
    FLAG,
    NUMBER,
    TEXT,
    Declared,
    Schema,
    by_name,
    listed,
    made_of,
    maybe,
    need,
    one_of,
    take,
)
from homeserver.control.declared.accounts import DOWN, LOOKING, OPERATORS
from homeserver.protocol.roles import Role

ARCHIVE_NAME: Final = "[A-Za-z0-9][A-Za-z0-9._-]{0,99}"

_BACKUP: Final[Schema] = one_of(
    made_of(done={"const": False}, rows=NUMBER, files=NUMBER),
    made_of(
        done={"const": True},
        deployment=TEXT,
        node=TEXT,
        jurisdiction=TEXT,
        time=NUMBER,
        schema=listed(listed(ANYTHING)),
        position=NUMBER,
        rows=by_name(NUMBER),
        files=NUMBER,
        files_gone=NUMBER,
        bytes=NUMBER,
    ),
    made_of(
        done={"const": True},
        deployment=TEXT,
        directory={"const": True},
        time=NUMBER,
        schema=listed(listed(ANYTHING)),
        rows=by_name(NUMBER),
        files=NUMBER,
        files_gone=NUMBER,
        bytes=NUMBER,
    ),
)
_INTO: Final = (
    need(
        "to",
        "The name of the file, of letters, digits, '.', '_' and '-', in the folder backups of the data directory. It"
        " must not be there yet.",
        {"type": "string", "pattern": ARCHIVE_NAME},
    ),
    take("key", "A public key to which the archive is sealed; see `domicile backup`."),
)
_DECLARED_ISOLATION: Final[Schema] = made_of(jurisdiction=TEXT, since_ts=NUMBER, reason=TEXT)
_FEDERATION_LIST: Final[Mapping[str, Schema]] = {
    "url": maybe(TEXT),
    "list": maybe(
        made_of(
            name=TEXT,
            serial=NUMBER,
            sha256=TEXT,
            servers=NUMBER,
            issued=NUMBER,
            valid_until=NUMBER,
            signed_by=listed(TEXT),
            taken_ts=NUMBER,
            checked_ts=NUMBER,
        )
    ),
    "valid_servers": NUMBER,
    "fault": maybe(TEXT),
    "contradictions": listed(made_of(server=TEXT, policy=TEXT, list=TEXT)),
    "undeclared": listed(TEXT),
    "report": maybe(made_of(time=NUMBER, rooms={"type": "object"}, servers={"type": "object"})),
}
_JURISDICTION: Final = need("jurisdiction", "The code of the jurisdiction.")

DECLARED: Final[Mapping[str, Declared]] = {
    "backup": Declared(
        says="Archive a node into a file on the server; how far it is, or the manifest",
        roles=OPERATORS,
        changes=True,
        door=("POST", "/nodes/{node}/backup"),
        arguments=(need("node", "The node."), *_INTO),
        answer=_BACKUP,
    ),
    "backup-directory": Declared(
        says="Archive the directory of users into a file on the server; how far it is, or the manifest",
        roles=OPERATORS,
        changes=True,
        door=("POST", "/directory/backup"),
        arguments=_INTO,
        answer=_BACKUP,
    ),
    "backup-progress": Declared(
        says="Wait a moment for the end of the backup that is being made",
        roles=LOOKING,
        changes=False,
        door=("GET", "/backup"),
        answer=_BACKUP,
    ),
    "doctor": Declared(
        says="Examine all nodes and the directory, or one node, for what does not hold together",
        roles=LOOKING,
        changes=False,
        door=("GET", "/doctor"),
        arguments=(take("node", "Only this node."),),
        answer=made_of(
            examined=listed(TEXT),
            findings=listed(made_of(node=maybe(TEXT), what=TEXT, count=NUMBER, remedy=TEXT)),
        ),
    ),
    "isolation-status": Declared(
        says="Which jurisdictions are isolated, and what waits to cross borders",
        roles=frozenset(Role),
        changes=False,
        door=("GET", "/isolations"),
        answer=made_of(
            isolated=listed(_DECLARED_ISOLATION),
            waiting=listed(made_of(node=TEXT, rows_for_nodes=by_name(NUMBER), servers=NUMBER)),
        ),
    ),
    "isolation-on": Declared(
        says="Close the borders of a jurisdiction: domestic service goes on, and what would leave or come waits",
        roles=OPERATORS,
        changes=True,
        door=("PUT", "/isolations/{jurisdiction}"),
        arguments=(_JURISDICTION, take("reason", "Why.")),
        answer=_DECLARED_ISOLATION,
    ),
    "isolation-off": Declared(
        says="Open the borders of a jurisdiction again; what waits is judged by the policy of this day",
        roles=OPERATORS,
        changes=True,
        door=("DELETE", "/isolations/{jurisdiction}"),
        arguments=(_JURISDICTION,),
        answer=made_of(),
    ),
    "federation-list-status": Declared(
        says="Which list of other servers holds, until when, and what is wrong with it",
        roles=frozenset(Role),
        changes=False,
        door=("GET", "/federation-list"),
        answer=made_of(**_FEDERATION_LIST),
    ),
    "federation-list-servers": Declared(
        says="What the list says of other servers, and where they are by the policy and it",
        roles=frozenset(Role),
        changes=False,
        door=("GET", "/federation-list/servers"),
        arguments=(take("server", "Only this one."),),
        answer=made_of(
            servers=listed(
                made_of(
                    server=TEXT,
                    jurisdiction=TEXT,
                    operator=maybe(TEXT),
                    role=maybe(TEXT),
                    witness=maybe(made_of(key=TEXT, url=TEXT)),
                    valid_until=maybe(NUMBER),
                    valid=FLAG,
                    placed=maybe(TEXT),
                )
            )
        ),
    ),
    "federation-list-pull": Declared(
        says="Fetch the list of other servers now; one that is not believed changes nothing",
        roles=OPERATORS,
        changes=True,
        door=("POST", "/federation-list/pull"),
        answer=made_of(changed=FLAG, **_FEDERATION_LIST),
    ),
    "passport": Declared(
        says="What the deployment says of itself, signed",
        roles=frozenset(Role),
        changes=False,
        why="Everybody gets it, at /_domicile/passport.json",
        answer=made_of(passport={"type": "object"}),
    ),
    "admin-log": Declared(
        says="What administrators have done, the newest last, and what is wrong with the log",
        roles=frozenset({Role.AUDITOR}),
        changes=False,
        door=("GET", "/log"),
        arguments=(
            take("node", "Only what rests on this node."),
            take("limit", "How many entries, of the newest; all are checked.", NUMBER),
        ),
        answer=made_of(
            entries=listed(
                made_of(
                    node=maybe(TEXT),
                    chain=TEXT,
                    seq=NUMBER,
                    ts=NUMBER,
                    who=TEXT,
                    command=TEXT,
                    arguments={"type": "object"},
                    outcome={"enum": ["begun", "done", "failed", "refused"]},
                    begun=maybe(NUMBER),
                    errcode=maybe(TEXT),
                    sha256=TEXT,
                )
            ),
            checked=NUMBER,
            intact=FLAG,
            faults=listed(made_of(node=maybe(TEXT), chain=TEXT, fault=TEXT)),
            nodes_down=DOWN,
            key=made_of(key_id=TEXT, key=TEXT),
        ),
    ),
}
