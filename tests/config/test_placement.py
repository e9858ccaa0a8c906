"""Where a new user's data rests."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from config.load import load_policy, policy_from_text
from config.placement import Attributes, MustChoose, Pinned, Placement, Refused, place
from config.policy import Policy
from config.residency import Default, Jurisdiction, NodePlace, Pin, Residency
from tests.config.support import GOLDEN, golden_with

POLICY = load_policy(GOLDEN / "residency.toml", environ={})


def placed(policy: Policy = POLICY, **attributes: object) -> Placement:
    return place(policy, Attributes(**attributes))  # type: ignore[arg-type]


def cites(line: int) -> str:
    return f"{GOLDEN}/residency.toml:{line}"


def test_by_phone() -> None:
    assert placed(phone="+989121234567") == Pinned("tehran", cites(22))
    assert placed(phone="989121234567") == Pinned("tehran", cites(22))
    assert placed(phone="+33612345678", may_ask=False) == Pinned("paris", cites(34))
    assert placed(phone="+9", may_ask=False) == Pinned("paris", cites(34))


def test_by_token() -> None:
    assert placed(token="fr-1234") == Pinned("paris", cites(26))
    assert placed(token="fr-") == Pinned("paris", cites(26))
    assert placed(token="FR-1", may_ask=False) == Pinned("paris", cites(34))  # tokens are case-sensitive


def test_the_first_match_counts() -> None:
    assert placed(phone="+98912", token="fr-1", choice="paris") == Pinned("tehran", cites(22))


def test_by_choice() -> None:
    assert placed() == MustChoose(("tehran", "paris"), cites(30))
    assert placed(choice="tehran") == Pinned("tehran", cites(30))
    assert placed(choice="moscow") == MustChoose(("tehran", "paris"), cites(30))
    assert placed(choice="tehran", may_ask=False) == Pinned("tehran", cites(30))


def test_who_cannot_be_asked_gets_the_default() -> None:
    assert placed(may_ask=False) == Pinned("paris", cites(34))


def test_by_an_admin() -> None:
    assert placed(node="paris", phone="+98912") == Pinned("paris", "named by an admin")
    assert placed(node="moscow") == Refused('there is no node "moscow"', "named by an admin")


def test_refused_in_the_words_of_the_policy() -> None:
    text = golden_with('node = "paris"                   #', 'refuse = "Not in your country." #')
    policy = policy_from_text(text, "r.toml")
    assert placed(policy, may_ask=False) == Refused("Not in your country.", "r.toml:34")


def test_without_a_default_nobody_gets_in() -> None:
    policy = Policy(residency((Pin(phone_prefix="+98", node="a"),)))
    answer = placed(policy)
    assert isinstance(answer, Refused)
    assert "no rule says where your data would rest" in answer.message


def test_all_conditions_of_a_rule_must_hold() -> None:
    policy = Policy(residency((Pin(phone_prefix="+98", token="x*y*", node="a", line=5),), Default(node="b")))
    assert placed(policy, phone="+98", token="xAyB") == Pinned("a", "residency.toml:5")
    assert isinstance(placed(policy, phone="+98", token="xAyB"), Pinned)
    for attributes in (
        {"phone": "+98"},
        {"token": "xy"},
        {"phone": "+98", "token": "xA"},
        {"phone": "+1", "token": "xy"},
    ):
        assert placed(policy, **attributes) == Pinned("b", "residency.toml:0")


def test_stars_in_tokens_are_the_only_wildcards() -> None:
    policy = Policy(residency((Pin(token="a.b*", node="a"),)))
    assert isinstance(placed(policy, token="a.bc\n"), Pinned)
    assert isinstance(placed(policy, token="axbc"), Refused)


def residency(pins: tuple[Pin, ...], default: Default | None = None) -> Residency:
    place_of = {
        name: NodePlace(name=name, jurisdiction="FR", database=f"sqlite:{name}", media=f"file:{name}")
        for name in ("a", "b", "c")
    }
    jurisdictions = {"FR": Jurisdiction(code="FR")}
    document = Residency(format=1, serial=1, jurisdictions=jurisdictions, nodes=place_of, pins=pins)
    return document if default is None else replace(document, default=default)


NODES = st.sampled_from(["a", "b", "c"])
PREFIXES = st.none() | st.from_regex(r"\+[1-3]{1,3}", fullmatch=True)
TOKENS = st.none() | st.from_regex(r"[xy*]{1,4}", fullmatch=True)
PINS = st.builds(
    lambda prefix, token, choice, node, nodes: Pin(
        phone_prefix=prefix,
        token=token,
        choice=choice,
        node=None if choice else node,
        nodes=tuple(sorted(nodes)) if choice else (),
    ),
    PREFIXES,
    TOKENS,
    st.booleans(),
    NODES,
    st.sets(NODES, min_size=2),
).filter(lambda pin: bool(pin.phone_prefix or pin.token or pin.choice))
ATTRIBUTES = st.builds(
    Attributes,
    phone=st.none() | st.from_regex(r"\+[1-3]{1,4}", fullmatch=True),
    token=st.none() | st.from_regex(r"[xy]{0,4}", fullmatch=True),
    choice=st.none() | NODES,
    may_ask=st.booleans(),
)


def matches(pin: Pin, attributes: Attributes) -> bool:
    """The rule read aloud, without the machinery under test."""
    conditions = []
    if pin.phone_prefix:
        conditions.append(
            attributes.phone is not None and attributes.phone[: len(pin.phone_prefix)] == pin.phone_prefix
        )
    if pin.token:
        conditions.append(attributes.token is not None and globbed(pin.token, attributes.token))
    if pin.choice:
        conditions.append(attributes.may_ask or attributes.choice is not None)
    return all(conditions)


def globbed(glob: str, text: str) -> bool:
    if not glob:
        return not text
    if glob[0] == "*":
        return any(globbed(glob[1:], text[cut:]) for cut in range(len(text) + 1))
    return text[:1] == glob[0] and globbed(glob[1:], text[1:])


@given(st.lists(PINS, max_size=6), ATTRIBUTES, st.sampled_from([Default(node="c"), Default(refuse="No.")]))
def test_the_first_rule_that_matches_decides(pins: list[Pin], attributes: Attributes, default: Default) -> None:
    answer = place(Policy(residency(tuple(pins), default)), attributes)
    first = next((pin for pin in pins if matches(pin, attributes)), None)
    expected: tuple[str | None, ...]
    if first is None:
        expected = (default.node,) if default.node else ()
    elif first.choice and attributes.choice not in first.nodes:
        expected = first.nodes
    else:
        expected = (attributes.choice if first.choice else first.node,)
    if isinstance(answer, Pinned):
        assert expected == (answer.node,)
    elif isinstance(answer, MustChoose):
        assert expected == answer.nodes
        assert len(answer.nodes) > 1
    else:
        assert expected == ()
        assert answer.message == "No."


@given(st.lists(PINS, max_size=6), ATTRIBUTES)
def test_whoever_has_chosen_is_not_asked_again(pins: list[Pin], attributes: Attributes) -> None:
    policy = Policy(residency(tuple(pins), Default(node="c")))
    answer = place(policy, attributes)
    if isinstance(answer, MustChoose):
        chosen = Attributes(phone=attributes.phone, token=attributes.token, choice=answer.nodes[-1])
        assert place(policy, chosen) == Pinned(answer.nodes[-1], answer.rule)


@given(st.lists(PINS, max_size=6), ATTRIBUTES)
def test_rules_after_a_match_change_nothing(pins: list[Pin], attributes: Attributes) -> None:
    for length in range(len(pins)):
        short = place(Policy(residency(tuple(pins[:length]), Default(refuse="No."))), attributes)
        if not isinstance(short, Refused):
            assert place(Policy(residency(tuple(pins), Default(refuse="No."))), attributes) == short
