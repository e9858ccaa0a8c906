"""Registration files of application services: as bridges write them, and with all mistakes that one can make."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from config.application_services import ApplicationService, ApplicationServices, read
from config.load import load_application_services, policy_from_text, settings_from_text
from config.problems import Faults
from tests.deployment import POLICY

MAUTRIX = r"""
id: telegram
as_token: 5XvJ_as_token
hs_token: 8eWk_hs_token
namespaces:
    users:
        - regex: ^@telegrambot:example\.org$
          exclusive: true
        - regex: ^@telegram_.*:example\.org$
          exclusive: true
url: http://localhost:29317
sender_localpart: Qw8sender
rate_limited: false
receive_ephemeral: true
de.sorunome.msc2409.push_ephemeral: true
org.matrix.msc3202: true
io.element.msc4190: true
""".replace("Qw8sender", "qw8sender")
"""As mautrix bridges write it."""

IRC = """
id: "IRC Bridge"
url: "http://127.0.0.1:1234"
as_token: "30c05ae90a248a4188e620216fa72e349803310ec83e2a77b34fe90be6081f46"
hs_token: "312df522183efd404ec1cd22d2ffa4bbc76a8c1ccf541dd692eef281356bb74e"
sender_localpart: "_irc_bot" # Will result in @_irc_bot:example.org
protocols: [irc]
namespaces:
  users:
    - exclusive: true
      regex: "@_irc_bridge_.*"
      group_id: "+irc:example.org"
  aliases:
    - exclusive: false
      regex: "#_irc_bridge_.*"
  rooms: []
"""
"""The example of the specification, with what others write besides."""


def parsed(text: str) -> tuple[ApplicationService | None, list[str]]:
    """The service, and the problems as an operator reads them."""
    service, problems = read(text, "bridge.yaml", server_name="example.org", node="paris", jurisdiction="FR")
    return service, [str(problem) for problem in problems]


def test_files_as_bridges_write_them() -> None:
    telegram, problems = parsed(MAUTRIX)
    assert problems == []
    assert telegram is not None
    assert (telegram.id, telegram.url, telegram.sender) == (
        "telegram",
        "http://localhost:29317",
        "@qw8sender:example.org",
    )
    assert (telegram.rate_limited, telegram.receive_ephemeral, telegram.old_names, telegram.wants_keys) == (
        False,
        True,
        False,
        True,
    )
    irc, problems = parsed(IRC)
    assert problems == []
    assert irc is not None
    assert (irc.rate_limited, irc.receive_ephemeral, irc.wants_keys, irc.protocols) == (True, False, False, ("irc",))
    assert [namespace.exclusive for namespace in (*irc.users, *irc.aliases, *irc.rooms)] == [True, False]
    assert "token" not in repr(irc).replace("as_token", "").replace("hs_token", "").lower()
    assert "30c05ae90a" not in repr(irc)


def test_namespaces_are_of_local_users_and_match_from_the_beginning() -> None:
    irc, _ = parsed(IRC)
    assert irc is not None
    assert irc.has_user("@_irc_bridge_joe:example.org")
    assert irc.has_user("@_irc_bot:example.org")
    assert not irc.has_user("@_irc_bridge_joe:elsewhere.example")
    assert not irc.has_user("@x_@_irc_bridge_joe:example.org")
    assert irc.has_alias("#_irc_bridge_market:example.org")
    assert not irc.has_room("!anything:example.org")
    assert irc.excludes_others_from_user("@_irc_bridge_joe:example.org")
    assert not irc.excludes_others_from_alias("#_irc_bridge_market:example.org")
    telegram, _ = parsed(MAUTRIX)
    assert telegram is not None
    assert telegram.has_user("@telegrambot:example.org")
    assert not telegram.has_user("@telegrambots:example.org")


def test_an_expression_cannot_keep_the_server_busy() -> None:
    service, problems = parsed(IRC.replace("@_irc_bridge_.*", "@(a+)+(b*)*$"))
    assert problems == []
    assert service is not None
    began = time.monotonic()
    assert not service.has_user("@" + "a" * 20_000 + "!:example.org")
    assert time.monotonic() - began < 1


@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [
        ("id", None, "id: wanted a name that no other service has, found nothing"),
        ("id", 5, "id: wanted a name that no other service has, found the number 5; write it in quotes"),
        ("as_token", 12345678, "as_token: wanted a secret text; write it in quotes"),
        ("as_token", "with spaces", "as_token: wanted a secret of printable ASCII characters without spaces"),
        ("as_token", "dom_abc", 'as_token: must not begin with "dom_" or "domr_", as tokens of users do'),
        ("hs_token", "", "hs_token: wanted a secret text"),
        ("url", "localhost:29317", "url: wanted a web address"),
        ("url", 5, "url: wanted a web address"),
        ("url", "http://user:secret@localhost", "url: wanted a web address"),
        ("sender_localpart", "@bot:example.org", "sender_localpart: wanted a localpart"),
        ("sender_localpart", "Bot", "sender_localpart: must be in lower case"),
        ("rate_limited", "no", 'rate_limited: wanted true or false, found "no"'),
        ("receive_ephemeral", 1, "receive_ephemeral: wanted true or false, found the number 1"),
        ("protocols", "irc", 'protocols: wanted a list, found "irc"'),
        ("protocols", [5], "protocols[0]: wanted a text, found the number 5"),
        ("namespaces", None, "namespaces: wanted users, aliases and rooms, found nothing"),
        ("namespaces", {"users": {}}, "namespaces.users: wanted a list of namespaces, found a table"),
        ("namespaces", {"users": ["@.*"]}, "namespaces.users[0]: wanted a namespace with regex and exclusive"),
        ("namespaces", {"rooms": [{"regex": 5, "exclusive": True}]}, "namespaces.rooms[0].regex: wanted a regular"),
        ("namespaces", {"rooms": [{"regex": "!.*"}]}, "namespaces.rooms[0].exclusive: wanted true or false"),
        ("namespaces", {"aliases": [{"regex": "#(", "exclusive": True}]}, "namespaces.aliases[0].regex: is no regular"),
        ("namespaces", {"users": [{"regex": "(?=a)b", "exclusive": True}]}, "namespaces.users[0].regex: is no regular"),
    ],
)
def test_a_mistake_is_named_with_its_field_and_line(field: str, value: Any, problem: str) -> None:
    document = {**yaml.safe_load(MAUTRIX), field: value}
    service, problems = parsed(yaml.safe_dump(document, sort_keys=False))
    assert service is None
    [said] = problems
    line = next(
        n for n, text in enumerate(yaml.safe_dump(document, sort_keys=False).splitlines(), 1) if text.startswith(field)
    )
    where, _, what = said.partition(": ")
    assert what.startswith(problem)
    assert int(where.partition(":")[2]) >= line
    assert "12345678" not in said


def test_all_mistakes_are_named_at_once() -> None:
    service, problems = parsed("id: 5\nurl: nowhere\n")
    assert service is None
    missing = {"as_token", "hs_token", "namespaces", "sender_localpart"}
    assert {said.split(": ")[1] for said in problems} == {"id", "url", *missing}


@pytest.mark.parametrize("text", ["", "[1, 2]", "just text", "5"])
def test_what_is_no_registration(text: str) -> None:
    assert parsed(text)[1] == ["bridge.yaml:1: wanted the fields of a registration, such as id and url"]


@pytest.mark.parametrize("text", ["a: [", "\t", "a: b: c", "&a [*a, *b]", "!!python/object:os.system {}", "[" * 5000])
def test_what_is_not_yaml_is_not_read(text: str) -> None:
    service, problems = parsed(text)
    assert service is None
    assert len(problems) == 1
    assert parsed("x" * 2_000_000)[1] == ["bridge.yaml: is too long for a registration"]


def test_a_field_that_stands_twice() -> None:
    _, problems = parsed(MAUTRIX + "id: again\n")
    assert problems == ["bridge.yaml:2: id: stands here twice"]


def loaded(directory: Path, *places: str, texts: tuple[str, ...] = (MAUTRIX, IRC)) -> ApplicationServices:
    """Services of which the settings say so much."""
    lines = ['server_name = "example.org"']
    for number, (place, text) in enumerate(zip(places, texts, strict=False)):
        (directory / f"{number}.yaml").write_text(text, "utf-8")
        lines += ["[[application_services]]", f'registration = "{number}.yaml"', place]
    settings = settings_from_text("\n".join(lines), str(directory / "domicile.toml"))
    return load_application_services(settings, policy_from_text(POLICY, "residency.toml", "example.org"))


def test_a_service_is_on_a_node_and_in_a_jurisdiction(tmp_path: Path) -> None:
    services = loaded(tmp_path, 'node = "paris"', 'node = "tehran"\njurisdiction = "FR"')
    assert [(s.id, s.node, s.jurisdiction) for s in services] == [
        ("telegram", "paris", "FR"),
        ("IRC Bridge", "tehran", "FR"),
    ]
    assert [service.id for service in services.on("paris")] == ["telegram"]
    telegram = services.all[0]
    assert services.of_token("5XvJ_as_token") is telegram
    assert services.of_token("8eWk_hs_token") is None
    assert services.excluding_from_user("@telegram_5:example.org") is telegram
    assert services.excluding_from_user("@telegram_5:example.org", telegram) is None
    assert not loaded(tmp_path)
    services.replace(services.all[1:])
    assert [service.id for service in services] == ["IRC Bridge"]
    assert (services.of_token("5XvJ_as_token"), services.on("paris")) == (None, ())
    assert services.excluding_from_user("@telegram_5:example.org") is None


@pytest.mark.parametrize(
    ("place", "problem"),
    [
        ("", "application_services[0].node: is missing; wanted the node of its users: there are tehran, paris"),
        ('node = "rome"', "application_services[0].node: residency.toml has no such node: there are tehran, paris"),
        (
            'node = "paris"\njurisdiction = "DE"',
            "application_services[0].jurisdiction: residency.toml declares no such",
        ),
    ],
)
def test_a_place_that_the_policy_does_not_have(tmp_path: Path, place: str, problem: str) -> None:
    with pytest.raises(Faults, match="application_services") as raised:
        loaded(tmp_path, place)
    assert problem in str(raised.value)


def test_what_has_to_differ_between_services(tmp_path: Path) -> None:
    with pytest.raises(Faults) as raised:
        loaded(tmp_path, 'node = "paris"', 'node = "paris"', texts=(MAUTRIX, MAUTRIX))
    assert [problem.key for problem in raised.value.problems] == ["id", "as_token", "sender_localpart"]


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    text = 'server_name = "example.org"\n[[application_services]]\nregistration = "gone.yaml"\nnode = "paris"\n'
    settings = settings_from_text(text, str(tmp_path / "domicile.toml"))
    with pytest.raises(Faults, match=r"gone\.yaml: cannot be read"):
        load_application_services(settings, policy_from_text(POLICY, "residency.toml", "example.org"))
