"""Every command is declared, as it is."""

from __future__ import annotations

from homeserver.control import reference
from homeserver.control.commands import COMMANDS
from homeserver.control.declarations import Kept, argument_of
from homeserver.control.declared import DECLARED
from homeserver.protocol.roles import Role


def test_every_command_is_declared_beside_the_others() -> None:
    """Whoever adds a command declares it in homeserver/control/declared, or says there why it has no door."""
    assert DECLARED.keys() == COMMANDS.keys()
    assert [name for name, each in DECLARED.items() if (each.door is None) is not bool(each.why)] == []


def test_every_command_with_a_door_is_for_somebody() -> None:
    assert [name for name, each in DECLARED.items() if each.door is not None and not each.roles] == []
    lookers = [each for each in DECLARED.values() if not each.changes and each.door is not None]
    texts = [DECLARED["residency-policy"], DECLARED["residency-edit"]]  # in which passwords of databases may stand
    assert [each.says for each in lookers if Role.AUDITOR not in each.roles and each not in texts] == []
    assert [name for name, each in DECLARED.items() if each.changes and Role.AUDITOR in each.roles] == []


def test_what_looks_is_asked_by_get_and_what_changes_is_not() -> None:
    """But for what is given a text that no address holds."""
    by_get = {name for name, each in DECLARED.items() if each.door is not None and each.door[0] == "GET"}
    looking = {name for name, each in DECLARED.items() if each.door is not None and not each.changes}
    assert by_get == {name for name in looking if not DECLARED[name].large}


def test_segments_of_a_path_are_arguments_that_must_be_given() -> None:
    for name, declared in DECLARED.items():
        needed = {argument.name for argument in declared.arguments if argument.needed}
        assert {argument_of(segment) for segment in declared.segments} <= needed, name


def test_no_secret_is_kept() -> None:
    secret = {"password", "phone", "signature", "text"}
    kept = {
        (name, argument.name)
        for name, declared in DECLARED.items()
        for argument in declared.arguments
        if argument.name in secret and argument.kept in (Kept.WHOLE, Kept.PERSON)
    }
    assert kept == set()
    given = {"localpart": "new", "password": "hush", "phone": "+33123456789", "node": ["x"] * 500, "admin": True}
    assert DECLARED["user-add"].kept(given, persons=False) == {"node": "(list)", "admin": True}
    assert DECLARED["residency-plan"].kept({"text": "x", "restores": 2**70}, persons=True) == {
        "text_sha256": "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881",
        "restores": "(int)",
    }


def test_the_page_is_as_the_declarations_are() -> None:
    """`python -m homeserver.control.reference` writes it."""
    assert reference.PAGE.read_text(encoding="utf-8") == reference.page()
