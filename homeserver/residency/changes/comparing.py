"""What differs between two policies, as far as the policies alone say it: nothing is looked up."""

from __future__ import annotations

from collections import defaultdict
from itertools import combinations
from typing import TYPE_CHECKING, Any

from config.placement import conditions_of
from config.residency import FLOWING, UNKNOWN

if TYPE_CHECKING:
    from collections.abc import Iterable

    from config.policy import Policy
    from config.residency import DataClass

Crossing = tuple["DataClass", str, str]

_OTHERS = (
    *("jurisdictions", "pins", "default", "retention", "disclosure"),
    *("federation_list", "witnesses", "witnessing", "changes"),
)
"""Tables of which it is only said that they differ."""


def nodes(before: Policy, after: Policy) -> dict[str, list[Any]]:
    """Nodes that come, that go, that are in another jurisdiction, and those whose database or media are elsewhere."""
    both = [name for name in after.nodes if name in before.nodes]
    return {
        "new": [name for name in after.nodes if name not in before.nodes],
        "gone": [name for name in before.nodes if name not in after.nodes],
        "other_jurisdiction": [
            {
                "node": name,
                "from": before.jurisdiction_of_node(name),
                "to": after.jurisdiction_of_node(name),
            }
            for name in both
            if before.jurisdiction_of_node(name) != after.jurisdiction_of_node(name)
        ],
        "other_storage": [name for name in both if _storage(before, name) != _storage(after, name)],
    }


def _storage(policy: Policy, name: str) -> tuple[object, ...]:
    place = policy.nodes[name]
    return place.database, place.password, place.media


def flows(before: Policy, after: Policy) -> dict[str, list[dict[str, Any]]]:
    """What may leave that might not, what may not any more, and of whom consent is asked now, or not any more."""
    old, new = before.crossings(), after.crossings()
    lasting = sorted({(source, target) for _, source, target in old & new})
    return {
        "gained": _by_pair(new - old),
        "lost": _by_pair(old - new),
        "consent_asked": [
            {"from": source, "to": target}
            for source, target in lasting
            if after.asks_consent(source, target) and not before.asks_consent(source, target)
        ],
        "consent_not_asked": [
            {"from": source, "to": target}
            for source, target in lasting
            if before.asks_consent(source, target) and not after.asks_consent(source, target)
        ],
    }


def _by_pair(crossings: Iterable[Crossing]) -> list[dict[str, Any]]:
    found: dict[tuple[str, str], set[str]] = defaultdict(set)
    for data_class, source, target in crossings:
        if data_class in FLOWING:
            found[source, target].add(data_class.value)
    return [
        {"from": source, "to": target, "classes": sorted(classes)}
        for (source, target), classes in sorted(found.items())
    ]


def pairs(before: Policy, after: Policy) -> dict[str, list[list[str]]]:
    """Pairs of jurisdictions between which rooms can be formed from now on, and between which they cannot any more."""
    places = sorted({*before.jurisdictions, *after.jurisdictions, UNKNOWN})
    could = {pair for pair in combinations(places, 2) if not before.room_may_span(pair)}
    can = {pair for pair in combinations(places, 2) if not after.room_may_span(pair)}
    return {"opened": sorted(map(list, can - could)), "closed": sorted(map(list, could - can))}


def peers(before: Policy, after: Policy) -> dict[str, list[dict[str, str]]]:
    """Entries about other servers that come, go, and change their jurisdiction; those of a federation list too, where
    one policy believes it and the other does not."""
    old = {**before.listed, **{peer.server: peer.jurisdiction for peer in before.residency.peers}}
    new = {**after.listed, **{peer.server: peer.jurisdiction for peer in after.residency.peers}}
    return {
        "added": [{"server": name, "jurisdiction": new[name]} for name in sorted(new.keys() - old.keys())],
        "removed": [{"server": name, "jurisdiction": old[name]} for name in sorted(old.keys() - new.keys())],
        "changed": [
            {"server": name, "from": old[name], "to": new[name]}
            for name in sorted(old.keys() & new.keys())
            if old[name] != new[name]
        ],
    }


def others(before: Policy, after: Policy) -> list[str]:
    """What else is different, by the names of its tables."""
    return [name for name in _OTHERS if getattr(before.residency, name) != getattr(after.residency, name)]


def renamed_rules(before: Policy, after: Policy) -> dict[str, tuple[str, str]]:
    """Pin rules that ask the same and name another node: their conditions, and the two nodes."""
    old = {conditions_of(pin): pin.node for pin in before.pins if pin.node is not None}
    new = {conditions_of(pin): pin.node for pin in after.pins if pin.node is not None}
    return {
        asked: (node, becomes)
        for asked, node in old.items()
        if (becomes := new.get(asked)) is not None and becomes != node
    }
