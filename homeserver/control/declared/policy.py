"""The residency policy: which was in force, and how another comes into force."""

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
    by_name,
    listed,
    made_of,
    maybe,
    need,
    one_of,
    take,
)
from homeserver.control.declared.accounts import DOWN
from homeserver.protocol.roles import Role

EDITORS: Final = frozenset({Role.RESIDENCY_EDITOR})
ALL: Final = frozenset(Role)

_DRAFT: Final = (
    take("text", "The text that is to be the next policy.", kept=Kept.DIGEST),
    take("file", "By which name mistakes in the text are told.", kept=Kept.NOTHING),
    take("restores", "In place of a text: the serial of an earlier version whose text is to hold again.", NUMBER),
)
_PLAN_DIGEST: Final = need("plan", "The digest of a plan.")
_PAIR: Final[Schema] = made_of(from_=TEXT, to=TEXT)
_CROSSING: Final[Schema] = made_of(from_=TEXT, to=TEXT, classes=listed(TEXT))
_PEER: Final[Schema] = made_of(server=TEXT, jurisdiction=TEXT)

_PLAN: Final[Schema] = made_of(
    digest=maybe(TEXT),
    changed=FLAG,
    serial=NUMBER,
    in_force=made_of(serial=NUMBER, record_sha256=TEXT),
    text_sha256=TEXT,
    restores=maybe(NUMBER),
    nodes=made_of(
        new=listed(TEXT),
        gone=listed(TEXT),
        other_jurisdiction=listed(made_of(node=TEXT, from_=TEXT, to=TEXT)),
        other_storage=listed(TEXT),
    ),
    flows=made_of(
        gained=listed(_CROSSING), lost=listed(_CROSSING), consent_asked=listed(_PAIR), consent_not_asked=listed(_PAIR)
    ),
    pairs=made_of(opened=listed(listed(TEXT)), closed=listed(listed(TEXT))),
    peers=made_of(
        added=listed(_PEER), removed=listed(_PEER), changed=listed(made_of(server=TEXT, from_=TEXT, to=TEXT))
    ),
    others=listed(TEXT),
    moves=listed(made_of(from_=TEXT, to=maybe(TEXT), why=TEXT, count=NUMBER, users=listed(TEXT))),
    bytes_to_copy=NUMBER,
    rooms=made_of(broken=NUMBER, rooms=listed({"type": "object"}), healed=NUMBER, ordered_by=by_name(NUMBER)),
    servers=made_of(lost=NUMBER, lost_names=listed(TEXT), gained=NUMBER, gained_names=listed(TEXT)),
    what_happens_to_rooms=TEXT,
    nodes_down=DOWN,
    obstacles=listed(TEXT),
    approvals=made_of(needed=NUMBER, given=listed(TEXT)),
)
_PROGRESS: Final[Schema] = one_of(
    made_of(done={"const": False}, step=TEXT, moved=NUMBER, to_move=NUMBER),
    made_of(done={"const": True}, serial=NUMBER, notes=listed(TEXT)),
)
_VERSION: Final[Schema] = made_of(
    {
        "time": NUMBER,
        "how": TEXT,
        "text_sha256": TEXT,
        "previous": maybe(TEXT),
        "plan": maybe(TEXT),
        "restores": maybe(NUMBER),
        "approvals": listed(TEXT),
    },
    serial=NUMBER,
    record_sha256=TEXT,
    faults=listed(TEXT),
    logged={"type": "object", "additionalProperties": NUMBER, "description": "Its index in the key log, by node."},
)

_EDIT: Final[Schema] = made_of(
    {
        "put": {"description": "Another value, or a new key."},
        "append": {"description": "One more value at the end of the list that the path leads to."},
        "remove": {"const": True, "description": "Nothing any more."},
    },
    path={"type": "array", "items": {"type": ["string", "integer"]}, "minItems": 1},
)

DECLARED: Final[Mapping[str, Declared]] = {
    "residency-history": Declared(
        says="Every policy that was in force, and since when",
        roles=ALL,
        changes=False,
        door=("GET", "/residency/history"),
        answer=made_of(versions=listed(_VERSION), key=made_of(key_id=TEXT, key=TEXT), intact=FLAG),
    ),
    "residency-policy": Declared(
        says="The text of the policy in force, and whether residency.toml says something else",
        roles=EDITORS,
        changes=False,
        door=("GET", "/residency/policy"),
        answer=made_of(serial=NUMBER, text=TEXT, text_sha256=TEXT, file_differs=FLAG),
    ),
    "residency-edit": Declared(
        says="A text after some edits, its comments and order kept, and what it would do as the next policy;"
        " changes nothing: apply it with the digest of the plan",
        roles=EDITORS,
        changes=False,
        door=("POST", "/residency/edit"),
        arguments=(
            need("edits", "What is to be done, one after the other.", listed(_EDIT), Kept.NOTHING),
            take("text", "The text to edit; else that of the policy in force.", kept=Kept.DIGEST),
        ),
        answer=made_of(text=TEXT, plan=_PLAN),
        large=True,
    ),
    "residency-plan": Declared(
        says="What a text would do as the next policy; changes nothing",
        roles=ALL,
        changes=False,
        door=("POST", "/residency/plan"),
        arguments=_DRAFT,
        answer=_PLAN,
        large=True,
    ),
    "residency-apply": Declared(
        says="Put a text in force, if what it would do still is this plan; how far it is, or the version",
        roles=EDITORS,
        changes=True,
        door=("POST", "/residency/apply"),
        arguments=(_PLAN_DIGEST, *_DRAFT),
        answer=_PROGRESS,
        large=True,
    ),
    "residency-progress": Declared(
        says="Wait a moment for the end of what is being applied",
        roles=ALL,
        changes=False,
        door=("GET", "/residency/apply"),
        answer=_PROGRESS,
    ),
    "residency-resume": Declared(
        says="Go on with a plan whose applying was cut off",
        roles=EDITORS,
        changes=True,
        door=("POST", "/residency/apply/resume"),
        answer=_PROGRESS,
    ),
    "residency-give-up": Declared(
        says="Forget the plan that was being applied",
        roles=EDITORS,
        changes=True,
        door=("DELETE", "/residency/apply"),
        answer=made_of(plan=TEXT),
    ),
    "residency-approve": Declared(
        says="Note the yes of an approver to a plan",
        roles=frozenset({Role.APPROVER}),
        changes=True,
        door=("POST", "/residency/approvals"),
        arguments=(
            _PLAN_DIGEST,
            need("name", "As the policy in force names them."),
            need("key", "Their public key, in unpadded Base64."),
            need("signature", "Their signature of the plan, in unpadded Base64.", kept=Kept.DIGEST),
        ),
        answer=made_of(plan=TEXT, given=listed(TEXT), needed=NUMBER),
    ),
}
