"""The only place that says what may leave: verdicts over a residency policy, each citing its rule.

A ``Policy`` never changes; a changed file makes a new one. All lookups are prepared when it is made or
kept when first asked, so that a verdict costs a dictionary access. What no rule names is denied.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import permutations

from config.disclosure import Disclosure
from config.federation_list import FederationList
from config.policy_changes import Changes
from config.residency import (
    FLOWING,
    UNKNOWN,
    USUAL_RETENTION,
    DataClass,
    Default,
    Flow,
    Jurisdiction,
    Leaves,
    NodePlace,
    Pin,
    Residency,
    Retention,
)

SAME_JURISDICTION = "same jurisdiction"
DEFAULT_DENY = "default deny"
NEVER_LEAVES = "never leaves"
ISOLATION = "isolation"

EMPTY: Mapping[str, str] = {}

NEEDED_BY_ROOMS = (DataClass.EVENTS, DataClass.KEYS)
"""What must flow both ways between all jurisdictions that a room spans."""

_WORDS = {
    DataClass.ACCOUNT: "account data",
    DataClass.SESSIONS: "session records",
    DataClass.KEY_BACKUP: "key backups",
    DataClass.MAILBOX: "messages to devices",
    DataClass.KEYS: "encryption keys",
    DataClass.EVENTS: "messages and room events",
    DataClass.MEDIA: "files",
    DataClass.PROFILE: "profiles",
    DataClass.RECEIPTS: "read receipts and typing notices",
    DataClass.PRESENCE: "presence",
    DataClass.NOTIFICATIONS: "notifications",
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether data of a class may go from one jurisdiction to another, and by which rule. True in a condition if so.

    ``rule`` is ``file:line`` of the flow, or ``same jurisdiction``, ``default deny``, ``never leaves``, ``isolation``.
    ``message`` says it to a person. ``consent`` is whether users are asked before a room of theirs crosses this border.
    ``held``: denied only as long as one of the two places is isolated; what can wait is kept until then.
    """

    allowed: bool
    data_class: DataClass
    source: str
    target: str
    rule: str
    message: str
    consent: bool = False
    held: bool = False

    def __bool__(self) -> bool:
        return self.allowed


class Policy:
    """A residency policy in force.

    Args:
        residency: the checked document.
        file: its name, for citations.
        server_name: the deployment's own, which is no peer; "" when nobody will ask about servers.
        isolated: jurisdictions whose borders are closed for now, whatever flows there are.
        text: the file's text, from which the document was read; "" when there is none.
        listed: the jurisdictions of servers by their names, as a federation list has them; what the document says of a
            server comes before it.
    """

    def __init__(
        self,
        residency: Residency,
        file: str = "residency.toml",
        server_name: str = "",
        isolated: Collection[str] = (),
        text: str = "",
        listed: Mapping[str, str] = EMPTY,
    ) -> None:
        self.residency = residency
        self.file = file
        self.text = text
        self.server_name = server_name.lower()
        self.isolated = frozenset(isolated)
        self.listed = listed
        self._verdicts: dict[tuple[DataClass, str, str], Verdict] = {}
        self._spans: dict[frozenset[str], tuple[Verdict, ...]] = {}
        self._servers = {p.server: p.jurisdiction for p in residency.peers if not p.server.startswith("*.")}
        self._suffixes = {p.server[2:]: p.jurisdiction for p in residency.peers if p.server.startswith("*.")}
        places = (*residency.jurisdictions, UNKNOWN)
        for source in places:
            if source != UNKNOWN:
                self._verdicts |= {(c, source, source): self._inside(c, source) for c in DataClass}
        for flow in residency.flows:
            self._let(flow, flow.from_, flow.to)
        for flow in residency.flows:  # after all that is said outright: an answer may come back the way a question went
            if UNKNOWN in flow.to:
                self._let(flow, UNKNOWN, (flow.from_,))
        if self.isolated:
            self._verdicts = {key: self._within(verdict) for key, verdict in self._verdicts.items()}

    def _let(self, flow: Flow, source: str, targets: Iterable[str]) -> None:
        """Allow what the flow names between these places, where no earlier flow has said so."""
        classes = [c for c in FLOWING if flow.names(c)] + ([DataClass.MAILBOX] if flow.names(DataClass.KEYS) else [])
        for target in targets:
            for data_class in classes:
                verdict = self._by_flow(flow, data_class, source, target)
                self._verdicts.setdefault((data_class, source, target), verdict)

    def _by_flow(self, flow: Flow, data_class: DataClass, source: str, target: str) -> Verdict:
        rule = f"{self.file}:{flow.line}"
        message = f"{_WORDS[data_class]} may leave {self.label(source)} for {self.label(target)}, by {rule}"
        return Verdict(True, data_class, source, target, rule, message, flow.consent)

    def _inside(self, data_class: DataClass, place: str) -> Verdict:
        message = f"inside {self.label(place)} everything flows"
        return Verdict(True, data_class, place, place, SAME_JURISDICTION, message)

    def _within(self, verdict: Verdict) -> Verdict:
        """The verdict, as it is while some jurisdictions are isolated."""
        if not self.holds(verdict.source, verdict.target):
            return verdict
        place = self.label(verdict.source if verdict.source in self.isolated else verdict.target)
        words = f"{_WORDS[verdict.data_class]} may not leave {self.label(verdict.source)}"
        message = f"{words} for {self.label(verdict.target)} for now: {place} is isolated"
        return replace(verdict, allowed=False, rule=ISOLATION, message=message, held=True)

    def _denial(self, data_class: DataClass, source: str, target: str) -> Verdict:
        words, out, into = _WORDS[data_class], self.label(source), self.label(target)
        if data_class.leaves is Leaves.NEVER:
            message = f"{words} never leave {out}"
            return Verdict(False, data_class, source, target, NEVER_LEAVES, message)
        needed = DataClass.KEYS if data_class is DataClass.MAILBOX else data_class
        message = f'{words} may not leave {out} for {into}: no flow of "{needed}" from {source} to {target} is allowed'
        return Verdict(False, data_class, source, target, DEFAULT_DENY, message)

    def may(self, data_class: DataClass, source: str, target: str) -> Verdict:
        """Whether data of a class may go from jurisdiction ``source`` to jurisdiction ``target``.

        ``source`` is where the data rests, ``target`` where the receiving node or server is; either may be
        ``unknown``. A jurisdiction that the policy does not declare gets nothing.
        """
        verdict = self._verdicts.get((data_class, source, target))
        if verdict is None:
            verdict = self._denial(data_class, source, target)
            if self.knows(source) and self.knows(target):  # names from elsewhere would fill the memory
                self._verdicts[data_class, source, target] = verdict
        return verdict

    def holds(self, source: str, target: str) -> bool:
        """Whether nothing goes from ``source`` to ``target`` for now, since one of them is isolated."""
        return source != target and (source in self.isolated or target in self.isolated)

    def isolating(self, jurisdictions: Collection[str]) -> Policy:
        """The same policy while these jurisdictions, and no others, are isolated."""
        if frozenset(jurisdictions) == self.isolated:
            return self
        return Policy(self.residency, self.file, self.server_name, jurisdictions, self.text, self.listed)

    def listing(self, listed: Mapping[str, str]) -> Policy:
        """The same policy, with a federation list that says this, or with none."""
        if listed == self.listed:
            return self
        return Policy(self.residency, self.file, self.server_name, self.isolated, self.text, listed)

    def room_may_span(self, jurisdictions: Iterable[str]) -> list[Verdict]:
        """What is missing for a room to span these jurisdictions: denied verdicts, none when it may.

        A room needs ``events`` and ``keys`` to flow both ways between all pairs.
        """
        places = frozenset(jurisdictions)
        missing = self._spans.get(places)
        if missing is None:
            pairs = permutations(sorted(places), 2)
            verdicts = [self.may(c, source, target) for source, target in pairs for c in NEEDED_BY_ROOMS]
            missing = tuple(verdict for verdict in verdicts if not verdict)
            if len(self._spans) < 10_000 and all(self.knows(place) for place in places):
                self._spans[places] = missing
        return list(missing)

    def crossings(self) -> frozenset[tuple[DataClass, str, str]]:
        """Everything that may leave: class, source and target."""
        return frozenset(
            place for place, verdict in self._verdicts.items() if verdict and verdict.rule != SAME_JURISDICTION
        )

    def asks_consent(self, source: str, target: str) -> bool:
        """Whether a user whose data rests in ``source`` is asked before a room of theirs reaches ``target``.

        True for what may not flow at all, so that a change of policy cannot pass for a consent.
        """
        if source == target and self.knows(source):
            return False
        verdict = self.may(DataClass.EVENTS, source, target)
        return verdict.consent or not verdict

    def jurisdiction_of_server(self, server_name: str) -> str:
        """The jurisdiction of another Matrix server: its own entry, else the longest suffix, else what the federation
        list says, else ``unknown``.

        An exact entry, and one of the list, means that name with that port; a suffix means any port.

        Raises:
            ValueError: it is this deployment, which has a jurisdiction for each node and none as a whole.
        """
        name = server_name.lower()
        if name == self.server_name:
            raise ValueError(f"{server_name} is this deployment; its nodes have jurisdictions")
        return self.own_word_on(name) or self.listed.get(name, UNKNOWN)

    def own_word_on(self, server_name: str) -> str | None:
        """The jurisdiction that the document itself gives a server, in whatever case it is spelt; None if none."""
        name = server_name.lower()
        exact = self._servers.get(name)
        if exact is not None or name.startswith("["):
            return exact
        _, dot, rest = name.partition(":")[0].partition(".")
        while dot:
            if rest in self._suffixes:
                return self._suffixes[rest]
            _, dot, rest = rest.partition(".")
        return None

    def knows(self, jurisdiction: str) -> bool:
        """Whether the policy declares this jurisdiction, or it is ``unknown``."""
        return jurisdiction == UNKNOWN or jurisdiction in self.residency.jurisdictions

    def label(self, jurisdiction: str) -> str:
        """A jurisdiction as a person reads it: ``France (FR)``."""
        if jurisdiction == UNKNOWN:
            return "places unknown to the policy"
        declared = self.residency.jurisdictions.get(jurisdiction)
        return declared.label if declared else jurisdiction

    @property
    def serial(self) -> int:
        """The number of this version of the policy."""
        return self.residency.serial

    @property
    def jurisdictions(self) -> Mapping[str, Jurisdiction]:
        """The declared jurisdictions by code."""
        return self.residency.jurisdictions

    @property
    def changes(self) -> Changes:
        """How the policy itself is changed."""
        return self.residency.changes

    @property
    def nodes(self) -> Mapping[str, NodePlace]:
        """The nodes by name."""
        return self.residency.nodes

    @property
    def federation_list(self) -> FederationList | None:
        """Whose list of other servers is believed, and where it is."""
        return self.residency.federation_list

    @property
    def pins(self) -> tuple[Pin, ...]:
        """The pin rules, the first that matches counts."""
        return self.residency.pins

    @property
    def default(self) -> Default:
        """What holds for users whom no pin rule matches."""
        return self.residency.default

    def jurisdiction_of_node(self, node: str) -> str:
        """The jurisdiction of a node.

        Raises:
            KeyError: the policy has no such node.
        """
        return self.residency.nodes[node].jurisdiction

    def retention(self, jurisdiction: str) -> Retention:
        """How long the nodes of a jurisdiction keep what they need not keep for ever."""
        return self.residency.retention.get(jurisdiction, USUAL_RETENTION)

    def disclosure(self, jurisdiction: str) -> Disclosure:
        """What can be disclosed in a jurisdiction: nothing, unless the policy says so."""
        return self.residency.disclosure.get(jurisdiction, _NO_DISCLOSURE)


_NO_DISCLOSURE = Disclosure()
