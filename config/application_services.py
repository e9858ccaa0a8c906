"""Application services as an operator registers them: one YAML file each, in the form that every bridge writes.

Every mistake of a file is reported at once, with its line and field. Values in, values out. The expressions of
namespaces are RE2: matching is linear in the text, whatever was written.

spec: application-service-api/#registration
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Final

import re2
import yaml

from config.kinds import found, is_web_address, line_of
from config.problems import Fault, KeyPath, Problem, dotted

MOST_BYTES: Final = 1024 * 1024
"""What a registration file may be long."""

_EXPRESSIONS: Final = re2.Options()
_EXPRESSIONS.log_errors = False
_EXPRESSIONS.max_mem = 1024 * 1024

EPHEMERAL: Final = ("receive_ephemeral", "de.sorunome.msc2409.push_ephemeral")
KEYS: Final = ("org.matrix.msc3202",)


@dataclass(frozen=True, slots=True)
class Namespace:
    """Ids that begin as an expression says; ``exclusive``: nobody else may make such an id."""

    regex: str
    exclusive: bool
    expression: Any = field(repr=False, compare=False)

    def includes(self, name: str) -> bool:
        """Whether an id is in the namespace."""
        return self.expression.match(name) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class ApplicationService:
    """One application service. Its users, and what waits for it, rest on ``node``; it runs in ``jurisdiction``.

    ``sender`` is the user id of its own user. ``url`` None: it is sent nothing. ``old_names``: it asks for ephemeral
    events by the name of the proposal only. ``wants_keys``: it is told in transactions of device lists and one-time
    keys, as bridges with encryption ask.
    """

    id: str
    url: str | None
    as_token: str = field(repr=False)
    hs_token: str = field(repr=False)
    sender: str
    server_name: str
    node: str
    jurisdiction: str
    users: tuple[Namespace, ...] = ()
    aliases: tuple[Namespace, ...] = ()
    rooms: tuple[Namespace, ...] = ()
    rate_limited: bool = True
    protocols: tuple[str, ...] = ()
    receive_ephemeral: bool = False
    old_names: bool = False
    wants_keys: bool = False

    def has_user(self, user_id: str) -> bool:
        """Whether a user is the service's own or in its namespace; users of other servers never are."""
        return user_id.endswith(":" + self.server_name) and (
            user_id == self.sender or any(namespace.includes(user_id) for namespace in self.users)
        )

    def has_alias(self, alias: str) -> bool:
        """Whether a room alias is in its namespace."""
        return any(namespace.includes(alias) for namespace in self.aliases)

    def has_room(self, room_id: str) -> bool:
        """Whether a room is in its namespace by its id."""
        return any(namespace.includes(room_id) for namespace in self.rooms)

    def excludes_others_from_user(self, user_id: str) -> bool:
        """Whether nobody else may have this user id."""
        return user_id == self.sender or any(n.exclusive and n.includes(user_id) for n in self.users)

    def excludes_others_from_alias(self, alias: str) -> bool:
        """Whether nobody else may make or remove this room alias."""
        return any(namespace.exclusive and namespace.includes(alias) for namespace in self.aliases)

    def limits(self, user_id: str) -> bool:
        """Whether rate limits hold for what it does as a user."""
        return self.rate_limited and user_id != self.sender


@dataclass(frozen=True, slots=True)
class _Registered:
    """The services at a moment, by what they are looked up by."""

    all: tuple[ApplicationService, ...]
    by_token: Mapping[bytes, ApplicationService]
    by_node: Mapping[str, tuple[ApplicationService, ...]]


def _registered(services: Iterable[ApplicationService]) -> _Registered:
    every = tuple(services)
    by_node: dict[str, tuple[ApplicationService, ...]] = {}
    for service in every:
        by_node[service.node] = (*by_node.get(service.node, ()), service)
    return _Registered(every, {_digest(service.as_token): service for service in every}, by_node)


class ApplicationServices:
    """The application services of a deployment; replaced as a whole when their registrations have been read again.
    Their tokens and ids differ."""

    def __init__(self, services: Iterable[ApplicationService] = ()) -> None:
        self._now = _registered(services)

    def replace(self, services: Iterable[ApplicationService]) -> None:
        """Have these instead of those that there were."""
        self._now = _registered(services)

    @property
    def all(self) -> tuple[ApplicationService, ...]:
        """The services there are."""
        return self._now.all

    def __iter__(self) -> Iterator[ApplicationService]:
        return iter(self._now.all)

    def __bool__(self) -> bool:
        return bool(self._now.all)

    def of_token(self, token: str) -> ApplicationService | None:
        """The service with this ``as_token``; how long that takes says nothing about the tokens there are."""
        return self._now.by_token.get(_digest(token))

    def on(self, node: str) -> tuple[ApplicationService, ...]:
        """The services of a node."""
        return self._now.by_node.get(node, ())

    def excluding_from_user(self, user_id: str, but: ApplicationService | None = None) -> ApplicationService | None:
        """The service, other than ``but``, that alone may have this user id."""
        return next((s for s in self._now.all if s != but and s.excludes_others_from_user(user_id)), None)

    def excluding_from_alias(self, alias: str, but: ApplicationService | None = None) -> ApplicationService | None:
        """The service, other than ``but``, that alone may make or remove this room alias."""
        return next((s for s in self._now.all if s != but and s.excludes_others_from_alias(alias)), None)


def _digest(token: str) -> bytes:
    return sha256(token.encode(errors="surrogateescape")).digest()


# reading ------------------------------------------------------------------------------------


def read(
    text: str, file: str, *, server_name: str, node: str, jurisdiction: str
) -> tuple[ApplicationService | None, list[Problem]]:
    """The service that a registration file describes, and everything that is wrong with the file.

    ``node`` and ``jurisdiction`` are what the operator says of it. Fields that nobody knows are passed over: bridges
    write some of their own.
    """
    if len(text) > MOST_BYTES:
        return None, [Problem(file, 0, "", "is too long for a registration")]
    try:
        document, lines, twice = _parsed(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        reason = getattr(error, "problem", None) or str(error)
        return None, [Problem(file, 0 if mark is None else mark.line + 1, "", f"is not YAML: {reason}")]
    except RecursionError:
        return None, [Problem(file, 0, "", "is not a usable YAML file: it is nested too deep")]
    if not isinstance(document, dict):
        return None, [Problem(file, 1, "", "wanted the fields of a registration, such as id and url")]
    reading = _Reading(document)
    reading.faults += [Fault(path, "stands here twice") for path in twice]
    service = _bound(reading, server_name, node, jurisdiction)
    problems = [Problem(file, line_of(f.path, lines), dotted(f.path), f.message) for f in reading.faults]
    return (None if problems else service), sorted(problems, key=lambda problem: problem.line)


def clashes(services: Sequence[tuple[str, ApplicationService]]) -> Iterator[Problem]:
    """What of several registrations (file, service) has to differ and does not.

    spec: application-service-api/#registration
    """
    for name in ("id", "as_token", "sender"):
        known: dict[str, str] = {}
        for file, service in services:
            value = getattr(service, name)
            if value in known:
                key = "sender_localpart" if name == "sender" else name
                yield Problem(file, 0, key, f"is the same as in {known[value]}; each service needs its own")
            known.setdefault(value, file)


def _parsed(text: str) -> tuple[Any, dict[KeyPath, int], list[KeyPath]]:
    """A document, the lines of its keys, and the keys that stand twice. Raises YAMLError."""
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None, {}, []
        lines: dict[KeyPath, int] = {}
        twice: list[KeyPath] = []
        _locate(node, (), lines, twice)
        return loader.construct_document(node), lines, twice
    finally:
        loader.dispose()


def _locate(node: yaml.Node, path: KeyPath, lines: dict[KeyPath, int], twice: list[KeyPath]) -> None:
    lines.setdefault(path, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode):
                step = (*path, str(key.value))
                if step in lines:
                    twice.append(step)
                    continue
                lines[step] = key.start_mark.line + 1
                _locate(value, step, lines, twice)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            if (*path, index) not in lines:  # what is an alias of itself has no end
                _locate(value, (*path, index), lines, twice)


class _Reading:
    """A document whose fields are read one by one, and what was wrong with them."""

    def __init__(self, document: Mapping[Any, Any]) -> None:
        self.document = document
        self.faults: list[Fault] = []

    def fault(self, path: KeyPath, message: str) -> None:
        self.faults.append(Fault(path, message))

    def text(self, name: str, wanted: str, *, secret: bool = False) -> str:
        """A required text that is not empty. What stands in the place of a secret is not repeated."""
        if name not in self.document:
            self.fault((name,), f"is missing; wanted {wanted}")
            return ""
        value = self.document[name]
        if not isinstance(value, str) or not value or "\0" in value:
            hint = "; write it in quotes" if isinstance(value, int | float) else ""
            self.fault((name,), f"wanted {wanted}{'' if secret else f', found {_found(value)}'}{hint}")
            return ""
        return value

    def flag(self, names: Sequence[str], default: bool) -> bool:
        """true if one of these fields is."""
        said = []
        for name in names:
            value = self.document.get(name)
            if value is not None and not isinstance(value, bool):
                self.fault((name,), f"wanted true or false, found {_found(value)}")
            elif value is not None:
                said.append(value)
        return any(said) if said else default

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of texts; none when it is missing."""
        value = self.document.get(name)
        if value is None:
            return ()
        if not isinstance(value, list):
            self.fault((name,), f"wanted a list, found {_found(value)}")
            return ()
        for index, each in enumerate(value):
            if not isinstance(each, str) or not each or len(each) > 255:
                self.fault((name, index), f"wanted a text, found {_found(each)}")
        return tuple(dict.fromkeys(each for each in value if isinstance(each, str)))

    def url(self) -> str | None:
        """Where the service is reached: a web address, or None."""
        if "url" not in self.document:
            self.fault(("url",), "is missing; wanted a web address, or null for a service that is sent nothing")
            return None
        value = self.document["url"]
        if value is None:
            return None
        if not isinstance(value, str) or not is_web_address(value.rstrip("/")):
            self.fault(
                ("url",), f'wanted a web address such as "http://localhost:9000", or null, found {_found(value)}'
            )
            return None
        return value.rstrip("/")

    def token(self, name: str) -> str:
        """A secret that stands in a header."""
        value = self.text(name, "a secret text", secret=True)
        if value and not (value.isascii() and value.isprintable() and " " not in value):
            self.fault((name,), "wanted a secret of printable ASCII characters without spaces")
        elif value.startswith(("dom_", "domr_")):
            self.fault((name,), 'must not begin with "dom_" or "domr_", as tokens of users do')
        return value

    def namespaces(self, kind: str) -> tuple[Namespace, ...]:
        """The namespaces of a kind: ``users``, ``aliases`` or ``rooms``."""
        whole = self.document.get("namespaces")
        if not isinstance(whole, dict):
            return ()
        here: KeyPath = ("namespaces", kind)
        listed = whole.get(kind)
        if listed is None:
            return ()
        if not isinstance(listed, list):
            self.fault(here, f"wanted a list of namespaces, found {_found(listed)}")
            return ()
        read = [self.namespace((*here, index), each) for index, each in enumerate(listed)]
        return tuple(namespace for namespace in read if namespace is not None)

    def namespace(self, path: KeyPath, raw: object) -> Namespace | None:
        """One namespace."""
        if not isinstance(raw, dict):
            self.fault(path, f"wanted a namespace with regex and exclusive, found {_found(raw)}")
            return None
        regex, exclusive = raw.get("regex"), raw.get("exclusive")
        if not isinstance(regex, str) or not regex:
            self.fault((*path, "regex"), f"wanted a regular expression, found {_found(regex)}")
            return None
        if not isinstance(exclusive, bool):
            self.fault((*path, "exclusive"), f"wanted true or false, found {_found(exclusive)}")
            return None
        try:
            return Namespace(regex, exclusive, re2.compile(regex, _EXPRESSIONS))
        except re2.error as error:
            reason = error.args[0] if error.args else ""
            said = reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)
            self.fault((*path, "regex"), f"is no regular expression of RE2: {said}")
            return None


def _found(raw: object) -> str:
    return "nothing" if raw is None else found(raw)


def _bound(reading: _Reading, server_name: str, node: str, jurisdiction: str) -> ApplicationService:
    namespaces = reading.document.get("namespaces")
    if not isinstance(namespaces, dict):
        reading.fault(("namespaces",), f"wanted users, aliases and rooms, found {_found(namespaces)}")
    localpart = reading.text("sender_localpart", "the localpart of the service's own user")
    if (
        localpart.startswith("@")
        or any(c in localpart for c in ":/ ")
        or not localpart.isascii()
        or len(localpart) > 200
    ):
        reading.fault(("sender_localpart",), 'wanted a localpart such as "_irc_bot", without "@" and server name')
    elif localpart != localpart.lower():
        reading.fault(("sender_localpart",), "must be in lower case")
    return ApplicationService(
        id=reading.text("id", "a name that no other service has"),
        url=reading.url(),
        as_token=reading.token("as_token"),
        hs_token=reading.token("hs_token"),
        sender=f"@{localpart}:{server_name}",
        server_name=server_name,
        node=node,
        jurisdiction=jurisdiction,
        users=reading.namespaces("users"),
        aliases=reading.namespaces("aliases"),
        rooms=reading.namespaces("rooms"),
        rate_limited=reading.flag(("rate_limited",), True),
        protocols=reading.texts("protocols"),
        receive_ephemeral=reading.flag(EPHEMERAL, False),
        old_names=reading.document.get(EPHEMERAL[0]) is not True,
        wants_keys=reading.flag(KEYS, False),
    )
