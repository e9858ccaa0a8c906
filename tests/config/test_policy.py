"""What may leave: default deny, citations, rooms over borders, jurisdictions of servers."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.load import load_policy, policy_from_text
from config.policy import DEFAULT_DENY, NEVER_LEAVES, SAME_JURISDICTION, Policy
from config.residency import FLOWING, UNKNOWN, DataClass, Flow, Jurisdiction, Leaves, NodePlace, Peer, Residency
from tests.config.support import GOLDEN

POLICY = load_policy(GOLDEN / "residency.toml", server_name="home.example", environ={})


def policy_of(*flows: Flow, peers: tuple[Peer, ...] = (), codes: tuple[str, ...] = ("IR", "FR", "KZ")) -> Policy:
    node = NodePlace(name="n", jurisdiction=codes[0], database="sqlite:n", media="file:n")
    jurisdictions = {code: Jurisdiction(code=code) for code in codes}
    residency = Residency(format=1, serial=1, jurisdictions=jurisdictions, nodes={"n": node}, flows=flows, peers=peers)
    return Policy(residency, server_name="home.example")


def test_a_flow_is_cited_by_its_line() -> None:
    verdict = POLICY.may(DataClass.EVENTS, "IR", "FR")
    assert verdict.allowed
    assert verdict
    assert verdict.rule == f"{GOLDEN}/residency.toml:41"
    assert verdict.consent
    assert verdict.message == (
        f"messages and room events may leave Iran (IR) for France (FR), by {GOLDEN}/residency.toml:41"
    )
    assert not POLICY.may(DataClass.PRESENCE, "FR", "IR").consent
    assert POLICY.may(DataClass.PRESENCE, "FR", "IR").rule.endswith(":46")


def test_what_no_flow_names_is_denied() -> None:
    verdict = POLICY.may(DataClass.PRESENCE, "IR", "FR")
    assert not verdict
    assert not verdict.allowed
    assert verdict.rule == DEFAULT_DENY
    assert verdict.message == (
        'presence may not leave Iran (IR) for France (FR): no flow of "presence" from IR to FR is allowed'
    )
    assert not POLICY.may(DataClass.EVENTS, "IR", UNKNOWN)


@pytest.mark.parametrize("data_class", [DataClass.ACCOUNT, DataClass.SESSIONS, DataClass.KEY_BACKUP])
def test_what_never_leaves(data_class: DataClass) -> None:
    for source, target in product(("IR", "FR"), ("IR", "FR", UNKNOWN)):
        verdict = POLICY.may(data_class, source, target)
        assert verdict.allowed == (source == target)
        assert verdict.rule == (SAME_JURISDICTION if source == target else NEVER_LEAVES)


def test_messages_to_devices_go_where_keys_go() -> None:
    assert POLICY.may(DataClass.MAILBOX, "IR", "FR").rule == POLICY.may(DataClass.KEYS, "IR", "FR").rule
    assert POLICY.may(DataClass.MAILBOX, "FR", UNKNOWN)
    denied = policy_of(Flow(from_="IR", to=("FR",), classes=("events",))).may(DataClass.MAILBOX, "IR", "FR")
    assert not denied
    assert 'no flow of "keys" from IR to FR' in denied.message


def test_inside_a_jurisdiction_everything_flows_but_unknown_is_not_one() -> None:
    for data_class in DataClass:
        assert POLICY.may(data_class, "FR", "FR").rule == SAME_JURISDICTION
        assert not POLICY.may(data_class, UNKNOWN, UNKNOWN)


def test_a_place_that_the_policy_does_not_declare_gets_nothing() -> None:
    for data_class in DataClass:
        assert not POLICY.may(data_class, "FR", "DE")
        assert not POLICY.may(data_class, "DE", "FR")
        assert not POLICY.may(data_class, "DE", "DE")


def test_the_first_flow_that_names_a_pair_counts() -> None:
    policy = policy_of(
        Flow(from_="IR", to=("FR",), classes=("events",), consent=False, line=10),
        Flow(from_="IR", to=("FR", "KZ"), classes=("*",), line=20),
    )
    assert policy.may(DataClass.EVENTS, "IR", "FR").rule == "residency.toml:10"
    assert not policy.asks_consent("IR", "FR")
    assert policy.may(DataClass.KEYS, "IR", "FR").rule == "residency.toml:20"
    assert policy.asks_consent("IR", "KZ")


def test_a_flow_to_unknown_lets_answers_in() -> None:
    assert POLICY.may(DataClass.EVENTS, UNKNOWN, "FR").rule.endswith(":46")
    assert not POLICY.may(DataClass.EVENTS, UNKNOWN, "IR")
    outright = policy_of(
        Flow(from_="IR", to=(UNKNOWN,), classes=("*",), line=10),
        Flow(from_=UNKNOWN, to=("IR",), classes=("events",), line=20),
    )
    assert outright.may(DataClass.EVENTS, UNKNOWN, "IR").rule == "residency.toml:20"
    assert outright.may(DataClass.KEYS, UNKNOWN, "IR").rule == "residency.toml:10"
    assert not policy_of(Flow(from_=UNKNOWN, to=("IR",), classes=("*",))).may(DataClass.EVENTS, "IR", UNKNOWN)


def test_rooms_over_borders() -> None:
    assert POLICY.room_may_span({"IR"}) == []
    assert POLICY.room_may_span(set()) == []
    assert POLICY.room_may_span({"IR", "FR"}) == []
    assert POLICY.room_may_span({"FR", UNKNOWN}) == []
    missing = POLICY.room_may_span({"IR", "FR", UNKNOWN})
    assert [(v.data_class, v.source, v.target) for v in missing] == [
        (DataClass.EVENTS, "IR", UNKNOWN),
        (DataClass.KEYS, "IR", UNKNOWN),
        (DataClass.EVENTS, UNKNOWN, "IR"),
        (DataClass.KEYS, UNKNOWN, "IR"),
    ]


def test_a_room_needs_both_classes_both_ways() -> None:
    both = ("events", "keys")
    there = Flow(from_="IR", to=("FR",), classes=both)
    back = Flow(from_="FR", to=("IR",), classes=both)
    assert policy_of(there, back).room_may_span({"IR", "FR"}) == []
    assert len(policy_of(there).room_may_span({"IR", "FR"})) == 2
    only_events = Flow(from_="FR", to=("IR",), classes=("events",))
    assert [(v.data_class, v.source, v.target) for v in policy_of(there, only_events).room_may_span(["FR", "IR"])] == [
        (DataClass.KEYS, "FR", "IR")
    ]
    assert len(policy_of(there, back).room_may_span({"IR", "FR", "KZ"})) == 8


def test_answers_about_rooms_are_not_shared_between_askers() -> None:
    POLICY.room_may_span({"IR", UNKNOWN}).clear()
    assert len(POLICY.room_may_span({"IR", UNKNOWN})) == 4


def test_consent() -> None:
    assert POLICY.asks_consent("IR", "FR")
    assert not POLICY.asks_consent("FR", "IR")
    assert not POLICY.asks_consent("FR", "FR")
    assert POLICY.asks_consent("IR", UNKNOWN)  # may not flow, so nobody can have agreed
    assert POLICY.asks_consent("DE", "DE")


PEERS = policy_of(
    peers=(
        Peer(server="matrix.gov.example", jurisdiction="FR"),
        Peer(server="*.example", jurisdiction="IR"),
        Peer(server="*.gov.example", jurisdiction="KZ"),
        Peer(server="rogue.gov.example", jurisdiction=UNKNOWN),
        Peer(server="10.0.0.1:8448", jurisdiction="FR"),
        Peer(server="[::1]:8448", jurisdiction="FR"),
    )
)


@pytest.mark.parametrize(
    ("server", "jurisdiction"),
    [
        ("matrix.gov.example", "FR"),
        ("MATRIX.gov.Example", "FR"),
        ("matrix.gov.example:8448", "KZ"),  # another server than the one that is named
        ("a.b.gov.example", "KZ"),
        ("gov.example", "IR"),
        ("x.example:1", "IR"),
        ("example", UNKNOWN),
        ("notexample", UNKNOWN),
        ("x.notexample", UNKNOWN),
        ("rogue.gov.example", UNKNOWN),
        ("10.0.0.1:8448", "FR"),
        ("10.0.0.1", UNKNOWN),
        ("[::1]:8448", "FR"),
        ("[::1.example]", UNKNOWN),
        ("", UNKNOWN),
        (".example", "IR"),
    ],
)
def test_jurisdictions_of_servers(server: str, jurisdiction: str) -> None:
    assert PEERS.jurisdiction_of_server(server) == jurisdiction


def test_this_deployment_is_no_peer() -> None:
    with pytest.raises(ValueError, match="is this deployment"):
        PEERS.jurisdiction_of_server("Home.example")


def test_what_a_policy_says_of_its_places() -> None:
    assert POLICY.jurisdiction_of_node("tehran") == "IR"
    assert POLICY.label("IR") == "Iran (IR)"
    assert POLICY.label(UNKNOWN) == "places unknown to the policy"
    assert POLICY.knows("IR")
    assert POLICY.knows(UNKNOWN)
    assert not POLICY.knows("DE")
    assert POLICY.retention("IR").media_cache.ms == 30 * 86_400_000
    assert POLICY.disclosure("FR").fields == ()


PLACES = st.sampled_from(["IR", "FR", "KZ", UNKNOWN])
FLOWS = st.builds(
    lambda source, targets, classes, consent, line: Flow(
        from_=source,
        to=tuple(sorted(targets - {source})) or ("KZ" if source != "KZ" else "IR",),
        classes=tuple(sorted(classes)),
        consent=consent,
        line=line,
    ),
    PLACES,
    st.sets(PLACES, min_size=1),
    st.sets(st.sampled_from([*map(str, FLOWING), "*"]), min_size=1),
    st.booleans(),
    st.integers(1, 1000),
)


def named(flows: list[Flow], data_class: DataClass, source: str, target: str) -> bool:
    """Rules 6 and 10 read aloud."""
    needed = DataClass.KEYS if data_class is DataClass.MAILBOX else data_class
    for flow in flows:
        if needed.value not in flow.classes and "*" not in flow.classes:
            continue
        if flow.from_ == source and target in flow.to:
            return True
        if source == UNKNOWN and flow.from_ == target and UNKNOWN in flow.to:
            return True
    return False


@given(st.lists(FLOWS, max_size=5), st.sampled_from(list(DataClass)), PLACES, PLACES)
def test_only_what_is_named_leaves(flows: list[Flow], data_class: DataClass, source: str, target: str) -> None:
    verdict = policy_of(*flows).may(data_class, source, target)
    assert (verdict.data_class, verdict.source, verdict.target) == (data_class, source, target)
    if source == target:
        assert verdict.allowed == (source != UNKNOWN)
    elif data_class.leaves is Leaves.NEVER:
        assert not verdict
    else:
        assert verdict.allowed == named(flows, data_class, source, target)
        if verdict:
            assert verdict.rule in {f"residency.toml:{flow.line}" for flow in flows}


@given(st.lists(FLOWS, max_size=5), st.sets(PLACES))
def test_a_room_spans_what_each_pair_allows(flows: list[Flow], places: set[str]) -> None:
    policy = policy_of(*flows)
    missing = policy.room_may_span(places)
    assert all(not verdict for verdict in missing)
    for pair in product(sorted(places), repeat=2):
        if pair[0] != pair[1]:
            needed = [policy.may(data_class, *pair) for data_class in (DataClass.EVENTS, DataClass.KEYS)]
            assert [v for v in missing if (v.source, v.target) == pair] == [v for v in needed if not v]
    assert policy.room_may_span(places) == missing  # also when it is remembered


@given(st.lists(FLOWS, max_size=5), FLOWS, st.sampled_from(list(DataClass)), PLACES, PLACES)
def test_one_more_flow_takes_nothing_away(
    flows: list[Flow], more: Flow, data_class: DataClass, source: str, target: str
) -> None:
    before = policy_of(*flows).may(data_class, source, target)
    after = policy_of(*flows, more).may(data_class, source, target)
    assert after.allowed or not before.allowed


def test_a_stored_version_cites_its_own_name() -> None:
    text = (GOLDEN / "residency.toml").read_text("utf-8")
    assert policy_from_text(text, "version 7").may(DataClass.EVENTS, "IR", "FR").rule == "version 7:41"
