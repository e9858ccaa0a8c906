"""The files of a new deployment load as they are and say what was asked for."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.load import load, policy_from_text
from config.placement import Attributes, MustChoose, Pinned, place
from config.residency import DataClass
from config.starter import initial_files


def written(directory: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (directory / name).write_text(text, "utf-8")
    return directory / "domicile.toml"


def test_one_jurisdiction(tmp_path: Path) -> None:
    settings, policy = load(written(tmp_path, initial_files("a.example", ["FR"])), environ={})
    assert settings.server_name == "a.example"
    assert settings.base_url == "http://127.0.0.1:8008"
    assert settings.registration.mode == "closed"
    assert settings.registration.shared_secret is not None
    assert {name: node.jurisdiction for name, node in policy.nodes.items()} == {"fr": "FR"}
    assert place(policy, Attributes()) == Pinned("fr", f"{tmp_path}/residency.toml:{policy.default.line}")


def test_two_jurisdictions_between_which_nothing_flows(tmp_path: Path) -> None:
    files = initial_files(
        "a.example", ["IR", "FR"], names={"IR": "Iran"}, languages={"IR": ["fa"]}, nodes={"IR": "tehran"}
    )
    _, policy = load(written(tmp_path, files), environ={})
    assert list(policy.nodes) == ["tehran", "fr"]
    assert policy.label("IR") == "Iran (IR)"
    assert policy.jurisdictions["IR"].languages == ("fa",)
    assert isinstance(place(policy, Attributes()), MustChoose)
    placement = place(policy, Attributes(may_ask=False))
    assert isinstance(placement, Pinned)
    assert placement.node == "tehran"
    assert len(policy.room_may_span({"IR", "FR"})) == 4


def test_the_flows_in_the_comments_are_the_flows_that_are_written(tmp_path: Path) -> None:
    closed = initial_files("a.example", ["IR", "FR", "X-LAB"])["residency.toml"]
    opened = initial_files("a.example", ["IR", "FR", "X-LAB"], flows=True)["residency.toml"]
    head, _, commented = closed.partition("# [[flows]]")
    uncommented = "\n".join(line.removeprefix("# ") for line in ("# [[flows]]" + commented).split("\n"))
    for text in (opened, head + uncommented):
        policy = policy_from_text(text)
        assert policy.room_may_span({"IR", "FR", "X-LAB"}) == []
        assert policy.may(DataClass.MEDIA, "X-LAB", "IR")
        assert policy.asks_consent("IR", "FR")
        assert not policy.may(DataClass.PRESENCE, "IR", "FR")
        assert not policy.may(DataClass.EVENTS, "IR", "unknown")


def test_no_jurisdiction() -> None:
    with pytest.raises(ValueError, match="at least one jurisdiction"):
        initial_files("a.example", [])


CODES = st.from_regex(r"[A-Z]{2}|X-[A-Z0-9]{1,5}", fullmatch=True)


@given(st.lists(CODES, min_size=1, max_size=6), st.text(st.characters(codec="utf-8"), min_size=1), st.booleans())
def test_whatever_is_asked_for_is_valid(codes: list[str], name: str, flows: bool) -> None:
    files = initial_files("a.example", codes, names={codes[0]: name}, flows=flows)
    policy = policy_from_text(files["residency.toml"])
    assert {node.jurisdiction for node in policy.nodes.values()} == set(codes)
    assert policy.jurisdictions[codes[0]].name == name
