"""What an operator may say in ``residency.toml``: jurisdictions, nodes, pins, peers, flows, retention, disclosure.

This is the document as written, checked. What follows from it is said by ``config.policy`` (what may leave) and
``config.placement`` (where a user's data rests).
"""

import posixpath
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from config import disclosure as disclosures
from config import policy_changes, witnesses
from config.disclosure import Disclosure as Disclosure
from config.federation_list import FederationList
from config.forms import CODE as CODE
from config.forms import DAY, JURISDICTION_PATTERN, SERVER_NAME_PATTERN
from config.forms import UNKNOWN as UNKNOWN
from config.kinds import Duration, Flag, Integer, ListOf, Secret, SecretFile, Span, Text, nearest
from config.policy_changes import Changes
from config.problems import Fault
from config.tables import Line, Name, Setting, TableMap, TableOf, TablesOf
from config.witnesses import ALONE, WITNESS_NAME, Witness, Witnessing


class Leaves(Enum):
    """Whether data of a class may leave its jurisdiction."""

    BY_FLOW = "yes, by a flow"
    IN_TRANSIT = "only on its way to the addressee, where `keys` may flow"
    NEVER = "never"


class DataClass(StrEnum):
    """The classes of data. Each table of a node's database belongs to exactly one."""

    ACCOUNT = "account"
    SESSIONS = "sessions"
    KEY_BACKUP = "key_backup"
    MAILBOX = "mailbox"
    KEYS = "keys"
    EVENTS = "events"
    MEDIA = "media"
    PROFILE = "profile"
    RECEIPTS = "receipts"
    PRESENCE = "presence"
    NOTIFICATIONS = "notifications"

    @property
    def leaves(self) -> Leaves:
        """Whether data of this class may leave its jurisdiction."""
        if self in (DataClass.ACCOUNT, DataClass.SESSIONS, DataClass.KEY_BACKUP):
            return Leaves.NEVER
        return Leaves.IN_TRANSIT if self is DataClass.MAILBOX else Leaves.BY_FLOW


FLOWING = tuple(data_class for data_class in DataClass if data_class.leaves is Leaves.BY_FLOW)
"""The classes that a flow can name."""

PLACE = Text(CODE.noun, rf"{JURISDICTION_PATTERN}|{UNKNOWN}", hint=CODE.hint)
NODE_NAME = Text(
    "a node's name, of small letters, digits, - and _",
    r"[a-z0-9][a-z0-9_-]{0,62}",
    hint=lambda text: f'did you mean "{text.lower()}"?' if text != text.lower() else "",
)


def _is_database(text: str) -> bool:
    try:
        url = urlsplit(text)
        return (text.startswith("sqlite:") and not text.startswith("sqlite://") and len(text) > len("sqlite:")) or (
            url.scheme == "postgresql" and url.port != 0
        )
    except ValueError:
        return False


def _database_hint(text: str) -> str:
    if text.startswith("postgres://"):
        return 'write "postgresql://"'
    if text.startswith("sqlite://"):
        return 'write one colon and the path: "sqlite:tehran/node.db"'
    return ""


DATABASE = Text('"sqlite:" and a path, or "postgresql://…"', r"[^\s\0]+.*", accepts=_is_database, hint=_database_hint)
MEDIA_STORE = Text('"file:" and a path', r"file:(?!//)[^\0]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Jurisdiction:
    """A legal territory, named by its ISO 3166 code (`IR`), or by a code of your own (`X-LAB`)."""

    code: Annotated[str, Name()] = ""
    name: Annotated[str, Setting(Text("a name"), "Its name as users read it; the code when not given.", "France")] = ""
    languages: Annotated[
        tuple[str, ...],
        Setting(
            ListOf(Text('a language such as "fr" or "pt-BR"', r"[A-Za-z]{2,8}(?:-[A-Za-z0-9]{1,8})*")),
            "Languages in which pages are shown to its users, the preferred one first.",
            ("fr",),
        ),
    ] = ()

    law: Annotated[
        str | None,
        Setting(
            Text("a sentence"),
            "The law that asks for its users' data to rest there, as users and strangers read it in the passport.",
            "Regulation (EU) 2016/679",
        ),
    ] = None

    @property
    def label(self) -> str:
        """The jurisdiction as a person reads it: ``France (FR)``."""
        return f"{self.name} ({self.code})" if self.name and self.name != self.code else self.code


@dataclass(frozen=True, slots=True, kw_only=True)
class NodePlace:
    """A place of storage in one jurisdiction: one database and one media store. Users are pinned to nodes."""

    name: Annotated[str, Name()] = ""
    jurisdiction: Annotated[str, Setting(CODE, "The jurisdiction in which its machines stand.", "FR")]
    database: Annotated[
        str,
        Setting(
            DATABASE,
            "`sqlite:` and a path, which starts from `data_dir` when relative, or `postgresql://user@host/name`.",
            "sqlite:paris/node.db",
        ),
    ]
    password: Annotated[
        Secret | None,
        Setting(
            SecretFile("DOMICILE_POSTGRESQL_PASSWORD"),
            "File with the password of a PostgreSQL database, when the URL holds none.",
            Secret(file=Path("paris.password")),
        ),
    ] = None
    media: Annotated[
        str,
        Setting(MEDIA_STORE, "`file:` and a path, which starts from `data_dir` when relative.", "file:paris/media"),
    ]

    @property
    def engine(self) -> Literal["sqlite", "postgresql"]:
        """Which database engine the node has."""
        return "sqlite" if self.database.startswith("sqlite:") else "postgresql"

    def database_path(self, data_dir: Path) -> Path:
        """The file of an SQLite database.

        Raises:
            ValueError: the node is on PostgreSQL.
        """
        if self.engine != "sqlite":
            raise ValueError(f"node {self.name} has no database file")
        return data_dir / self.database.removeprefix("sqlite:")

    def media_path(self, data_dir: Path) -> Path:
        """The directory of the media store."""
        return data_dir / self.media.removeprefix("file:")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pin:
    """A rule that says where a new user's data rests. The first that matches counts; all its conditions must hold."""

    line: Annotated[int, Line()] = field(default=0, compare=False)
    phone_prefix: Annotated[
        str | None,
        Setting(
            Text(
                'the beginning of a phone number such as "+98"',
                r"\+[0-9]{1,15}",
                hint=lambda text: (
                    f'did you mean "+{text.lstrip("0")}"?' if re.fullmatch(r"0*[1-9][0-9]*", text) else ""
                ),
            ),
            "Matches a user whose verified phone number begins so.",
            "+33",
        ),
    ] = None
    token: Annotated[
        str | None,
        Setting(
            Text("a registration token, in which * stands for anything", r"[A-Za-z0-9._~*-]{1,64}"),
            "Matches a user who registers with this token; `*` stands for any characters.",
            "fr-*",
        ),
    ] = None
    choice: Annotated[
        bool,
        Setting(
            Flag(),
            "The user chooses one of `nodes`: the client says which in `org.domicile.node` when it registers.",
            True,
        ),
    ] = False
    node: Annotated[str | None, Setting(NODE_NAME, "Where the data of those who match rests.", "paris")] = None
    nodes: Annotated[
        tuple[str, ...], Setting(ListOf(NODE_NAME), "With `choice`: the nodes to choose from.", ("paris", "tehran"))
    ] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Default:
    """What holds for a new user whom no pin rule matches: a node, or a refusal. Without this table: a refusal."""

    line: Annotated[int, Line()] = field(default=0, compare=False)
    node: Annotated[str | None, Setting(NODE_NAME, "Where their data rests.", "paris")] = None
    refuse: Annotated[
        str | None,
        Setting(
            Text("the sentence that the user reads"),
            "Refuse the registration with this sentence.",
            "This service is not offered in your country.",
        ),
    ] = None


REFUSED = Default(refuse="This server does not offer accounts to you: no rule says where your data would rest.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """The jurisdiction of another Matrix server. Servers that no entry matches are in `unknown`."""

    line: Annotated[int, Line()] = field(default=0, compare=False)
    server: Annotated[
        str,
        Setting(
            Text(
                'a server name such as "matrix.example.org", or "*." and a domain',
                rf"(?:\*\.)?{SERVER_NAME_PATTERN}",
                normal=str.lower,
                accepts=lambda text: not re.fullmatch(r"\*\..*(?::[0-9]+|\])", text),
            ),
            "A server's exact name, or `*.` and a domain for all servers below it; the longest match counts.",
            "matrix.gov.example",
        ),
    ]
    jurisdiction: Annotated[str, Setting(PLACE, "Where it is.", "FR")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """A permission for classes of data to leave one jurisdiction for others. What no flow names does not leave.

    A flow to `unknown` lets the same classes come in from there, for no policy can speak for a law it does not know.
    """

    line: Annotated[int, Line()] = field(default=0, compare=False)
    from_: Annotated[str, Setting(PLACE, "The jurisdiction that the data leaves, or `unknown`.", "FR")]
    to: Annotated[
        tuple[str, ...],
        Setting(
            ListOf(PLACE, least=1), "The jurisdictions that it may go to, `unknown` among them.", ("IR", "unknown")
        ),
    ]
    classes: Annotated[
        tuple[str, ...],
        Setting(
            ListOf(Text("a data class"), least=1),
            f"What may flow: {', '.join(f'`{name}`' for name in FLOWING)}, or `*` for all of these.",
            ("events", "keys"),
        ),
    ]
    consent: Annotated[
        bool,
        Setting(
            Flag(),
            "Whether users are asked before a room of theirs first crosses this border.",
        ),
    ] = True

    def names(self, data_class: DataClass) -> bool:
        """Whether this flow lets the class pass."""
        return data_class in self.classes or ("*" in self.classes and data_class in FLOWING)


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """How long a jurisdiction's nodes keep what they need not keep for ever."""

    sessions: Annotated[Duration, Setting(Span(), "Sealed addresses, user agents and days of use.")] = 90 * DAY
    media_cache: Annotated[
        Duration, Setting(Span(), "Copies of files of other servers that nobody has asked for; pictures of previews.")
    ] = 30 * DAY
    media: Annotated[
        Duration | None,
        Setting(
            Span(),
            "Uploaded files that nobody has asked for, counted from when this is set at the earliest; avatars that are"
            " in use are kept. For ever when it is not set.",
            365 * DAY,
        ),
    ] = None


USUAL_RETENTION = Retention()
BY_HAND = Changes()


@dataclass(frozen=True, slots=True, kw_only=True)
class Residency:
    """The residency policy as a whole."""

    format: Annotated[int, Setting(Integer(1, 1), "The format of this file.", 1)]
    serial: Annotated[
        int, Setting(Integer(1), "Number of this version of the policy; grows with each applied change.", 1)
    ]
    jurisdictions: Annotated[
        Mapping[str, Jurisdiction], Setting(TableMap(Jurisdiction, CODE, "jurisdictions.FR", least=1), "")
    ]
    nodes: Annotated[Mapping[str, NodePlace], Setting(TableMap(NodePlace, NODE_NAME, "nodes.paris", least=1), "")]
    pins: Annotated[tuple[Pin, ...], Setting(TablesOf(Pin), "")] = ()
    default: Annotated[Default, Setting(TableOf(Default, whole=True), "")] = REFUSED
    peers: Annotated[tuple[Peer, ...], Setting(TablesOf(Peer), "")] = ()
    federation_list: Annotated[FederationList | None, Setting(TableOf(FederationList), "")] = None
    flows: Annotated[tuple[Flow, ...], Setting(TablesOf(Flow), "")] = ()
    retention: Annotated[Mapping[str, Retention], Setting(TableMap(Retention, CODE, "retention.FR"), "")] = field(
        default_factory=dict
    )
    disclosure: Annotated[Mapping[str, Disclosure], Setting(TableMap(Disclosure, CODE, "disclosure.FR"), "")] = field(
        default_factory=dict
    )
    witnesses: Annotated[Mapping[str, Witness], Setting(TableMap(Witness, WITNESS_NAME, "witnesses.zurich"), "")] = (
        field(default_factory=dict)
    )
    witnessing: Annotated[Witnessing, Setting(TableOf(Witnessing), "")] = ALONE
    changes: Annotated[Changes, Setting(TableOf(Changes), "")] = BY_HAND


def faults(residency: Residency) -> Iterator[Fault]:
    """Mistakes that only show between several tables. Values that were faulty by themselves are passed over."""
    yield from _place_faults(residency)
    yield from _node_faults(residency)
    yield from _pin_faults(residency)
    yield from _default_faults(residency)
    yield from _peer_faults(residency)
    yield from _flow_faults(residency)
    yield from disclosures.faults(
        residency.disclosure,
        {code: residency.retention.get(code, USUAL_RETENTION).sessions for code in residency.disclosure},
    )
    yield from witnesses.faults(residency.witnesses, residency.witnessing)
    yield from policy_changes.faults(residency.changes)


def _not_among(word: str, known: Mapping[str, object], noun: str) -> str:
    return f'there is no {noun} "{word}"; {nearest(word, list(known)) or "there are " + ", ".join(known)}'


def _is_no_node(name: str | None, residency: Residency) -> bool:
    """Whether a name stands for no node; when there are no nodes at all that has been said already."""
    return bool(name and residency.nodes) and name not in residency.nodes


def _place_faults(residency: Residency) -> Iterator[Fault]:
    """Jurisdictions that are named but not declared."""
    known = residency.jurisdictions
    named: list[tuple[tuple[str | int, ...], str]] = []
    named += [(("nodes", name, "jurisdiction"), node.jurisdiction) for name, node in residency.nodes.items()]
    named += [(("peers", i, "jurisdiction"), peer.jurisdiction) for i, peer in enumerate(residency.peers)]
    for i, flow in enumerate(residency.flows):
        named.append((("flows", i, "from"), flow.from_))
        named += [(("flows", i, "to", k), code) for k, code in enumerate(flow.to)]
    named += [(("retention", code), code) for code in residency.retention]
    named += [(("disclosure", code), code) for code in residency.disclosure]
    named += [(("witnesses", name, "jurisdiction"), each.jurisdiction) for name, each in residency.witnesses.items()]
    spelled = {code.upper() for code in known}  # one that is declared in small letters is a fault of its own
    for path, code in named:
        if known and re.fullmatch(JURISDICTION_PATTERN, code) and code not in spelled:
            yield Fault(path, _not_among(code, known, "jurisdiction"))


def _node_faults(residency: Residency) -> Iterator[Fault]:
    for key in ("database", "media"):
        owners: dict[str, str] = {}
        for name, node in residency.nodes.items():
            place = _storage_identity(getattr(node, key))
            if place and place in owners:
                yield Fault(("nodes", name, key), f"is that of the node {owners[place]} too; each node has its own")
            owners.setdefault(place, name)
    for name, node in residency.nodes.items():
        if node.password and node.password.file and node.engine == "sqlite" and node.database:
            yield Fault(("nodes", name, "password_file"), "an SQLite database has no password")


def _storage_identity(store: str) -> str:
    """The same text for two spellings of the same database or media store."""
    scheme, _, rest = store.partition(":")
    if scheme in ("sqlite", "file"):
        return f"{scheme}:{posixpath.normpath(rest)}"
    if scheme != "postgresql":
        return store
    url = urlsplit(store)
    return f"{url.hostname or ''}:{url.port or 5432}{url.path}?{url.query}"


def _pin_faults(residency: Residency) -> Iterator[Fault]:
    for index, pin in enumerate(residency.pins):
        path = ("pins", index)
        if pin.node and _is_no_node(pin.node, residency):
            yield Fault((*path, "node"), _not_among(pin.node, residency.nodes, "node"))
        for place, name in enumerate(pin.nodes):
            if _is_no_node(name, residency):
                yield Fault((*path, "nodes", place), _not_among(name, residency.nodes, "node"))
        yield from (Fault((*path, *key), message) for key, message in _pin_shape(pin))
        earlier = next((i for i in range(index) if _shadows(residency.pins[i], pin)), None)
        if earlier is not None:
            yield Fault(path, f"never matches: pins[{earlier}] matches all that this rule would, and comes first")


def _pin_shape(pin: Pin) -> Iterator[tuple[tuple[str, ...], str]]:
    if not (pin.phone_prefix or pin.token or pin.choice):
        yield (), "matches nobody; a rule needs phone_prefix, token or choice"
    if pin.choice and pin.node:
        yield ("node",), "with choice, the nodes to choose from stand in nodes"
    if pin.choice and len(pin.nodes) < 2:
        yield ("nodes",), "wanted at least two nodes to choose from"
    if not pin.choice and pin.nodes:
        yield ("nodes",), "only a rule with choice = true has several nodes; write node"
    if not pin.choice and not pin.node and not pin.nodes:
        yield ("node",), "is missing; wanted the node where the data of those who match rests"


def _shadows(earlier: Pin, later: Pin) -> bool:
    """Whether the earlier rule matches whatever the later would."""
    if not (earlier.phone_prefix or earlier.token or earlier.choice):
        return False
    return (
        (earlier.phone_prefix is None or (later.phone_prefix or "").startswith(earlier.phone_prefix))
        and (earlier.token is None or earlier.token == later.token or _stem_covers(earlier.token, later.token))
        and (not earlier.choice or (later.choice and set(later.nodes) <= set(earlier.nodes)))
    )


def _stem_covers(earlier: str, later: str | None) -> bool:
    stem = earlier.removesuffix("*")
    return later is not None and stem != earlier and "*" not in stem and later.startswith(stem)


def _default_faults(residency: Residency) -> Iterator[Fault]:
    default = residency.default
    if default.node and _is_no_node(default.node, residency):
        yield Fault(("default", "node"), _not_among(default.node, residency.nodes, "node"))
    if (default.node is None) == (default.refuse is None):
        yield Fault(("default",), "wanted either node or refuse, and not both")


def _peer_faults(residency: Residency) -> Iterator[Fault]:
    first: dict[str, int] = {}
    for index, peer in enumerate(residency.peers):
        if peer.server and peer.server in first:
            yield Fault(("peers", index, "server"), f"stands in peers[{first[peer.server]}] already")
        first.setdefault(peer.server, index)


def _flow_faults(residency: Residency) -> Iterator[Fault]:
    for index, flow in enumerate(residency.flows):
        for place, code in enumerate(flow.to):
            if code and code == flow.from_:
                why = "cannot be on both sides" if code == UNKNOWN else "inside it everything flows anyway"
                yield Fault(("flows", index, "to", place), f"{code} is where this flow begins; {why}")
        for place, name in enumerate(flow.classes):
            if name and (complaint := _class_fault(name)):
                yield Fault(("flows", index, "classes", place), complaint)


def _class_fault(name: str) -> str:
    if name == "*" or name in FLOWING:
        return ""
    if name not in DataClass.__members__.values():
        known = [*FLOWING, "*"]
        return f'there is no data class "{name}"; {nearest(name, known) or "what can flow is " + ", ".join(known)}'
    if DataClass(name).leaves is Leaves.IN_TRANSIT:
        return f'"{name}" cannot be named: messages to devices go to their addressee wherever keys may flow'
    return f'"{name}" never leaves its jurisdiction, so no flow can name it'
