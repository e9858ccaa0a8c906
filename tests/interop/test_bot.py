"""A day of a bot made with matrix-bot-sdk, which encrypts: among people, and as an application service."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.interop.api import segment
from tests.interop.cast import Wardrobe, device_name
from tests.interop.client import CallError, Client
from tests.interop.deployment import Deployment
from tests.interop.test_bridge import House
from tests.interop.test_clients import all_read_all, words


@contextlib.contextmanager
def with_person(place: Deployment, folder: Path) -> Iterator[tuple[Client, Wardrobe]]:
    """Somebody in Iran with matrix-js-sdk."""
    with contextlib.closing(Wardrobe(folder / "clients")) as wardrobe:
        javad = wardrobe.client("js", "javad", place.base_url)
        javad.register("javad", secrets.token_urlsafe(12), device_name("javad"), place.registration_token("IR"))
        javad.sets_up_cross_signing()
        yield javad, wardrobe


def refused_in_the_clear(bot: Client, room: str) -> None:
    """A bot that forgot to encrypt is told so."""
    with pytest.raises(CallError) as refused:
        bot.call("send_in_the_clear", room=room, body=words(bot))
    assert (refused.value.status, refused.value.errcode) == (403, "M_FORBIDDEN")
    assert refused.value.reason == "plaintext_refused"


def test_a_day_of_a_bot(tmp_path: Path) -> None:
    with Deployment(tmp_path) as place, with_person(place, tmp_path) as (javad, wardrobe):
        place.add_user("weather", "the password of the bot", "--node", "paris")
        bot = wardrobe.client("bot", "weather", place.base_url)
        bot.login(f"@weather:{place.server_name}", "the password of the bot", device_name("weather"))
        bot.call("set_profile", displayname="Weather")
        assert javad.call("profile", user=bot.user_id) == {"displayname": "Weather"}

        # Invited, it comes by itself, reads, answers and reacts.
        room = javad.creates_room("balcony", bot)
        javad.sees_members(room, javad, bot)
        bot.call("wait_for_encryption", room=room)
        all_read_all(room, javad, bot)
        question, answer = words(javad), words(bot)
        asked = javad.sends(room, question)
        reply = bot.call("reply", room=room, sender=javad.user_id, body=question, text=answer)
        assert javad.sees(room, bot, f"> <{javad.user_id}> {question}\n\n{answer}") == reply
        bot.call("read", room=room, event_id=asked)
        javad.call("wait_for_receipt", room=room, user=bot.user_id, event_id=asked)
        bot.call("react", room=room, event_id=asked, key="🌦")
        javad.call("wait_for_reaction", room=room, sender=bot.user_id, event_id=asked, key="🌦")
        javad.call("react", room=room, event_id=reply, key="👍")
        bot.call("wait_for_reaction", room=room, sender=javad.user_id, event_id=reply, key="👍")
        bot.call("typing", room=room, typing=True)
        javad.call("wait_for_typing", room=room, user=bot.user_id, typing=True)
        for giver, taker in ((javad, bot), (bot, javad)):
            content, name = secrets.token_bytes(20_001), f"{secrets.token_hex(6)}.bin"
            giver.sends_file(room, name, "application/x-secret", content)
            assert taker.receives_file(room, giver, name) == content
        assert bot.call("text_of", room=room, event_id=asked) == question
        bot.call("redact", room=room, event_id=reply)
        javad.call("wait_for_redaction", room=room, event_id=reply)
        refused_in_the_clear(bot, room)

        # It opens rooms of its own, and finds again what it remembers.
        alone = bot.call("direct_room", user=javad.user_id)
        javad.joins(alone)
        javad.sees_members(alone, javad, bot)
        bot.call("wait_for_members", room=alone, members={javad.user_id: "join"})
        bot.call("topic", room=alone, topic="Sun")
        all_read_all(alone, bot, javad)
        assert javad.api.client("GET", f"/rooms/{segment(alone)}/state/m.room.topic")["topic"] == "Sun"
        assert bot.call("direct_room", user=javad.user_id) == alone
        bot.call("remember", type="org.example.weather", content={"city": "Shiraz"})
        assert bot.call("recall", type="org.example.weather") == {"city": "Shiraz"}

        # Then it is thrown out of one room.
        javad.call("kick", room=room, user=bot.user_id)
        bot.call("wait_for_leaving", room=room)
        with pytest.raises(CallError):
            bot.call("send_text", room=room, body=words(bot))
        all_read_all(alone, javad, bot)


def test_a_bot_that_is_an_application_service(tmp_path: Path) -> None:
    with House(tmp_path, "paris") as place, with_person(place, tmp_path) as (javad, wardrobe):
        bot = wardrobe.client("bot", "telegram", place.base_url)
        served: dict[str, Any] = {"registration": place.registration, "server_name": place.server_name}
        bot.begins_session(bot.call("serves", port=place.bridge_port, **served), "")
        assert bot.user_id == f"@telegram_bot:{place.server_name}"
        room = javad.creates_room("portal", bot)
        javad.sees_members(room, javad, bot)
        bot.call("wait_for_encryption", room=room)
        all_read_all(room, bot, javad)
        content, name = secrets.token_bytes(20_001), f"{secrets.token_hex(6)}.bin"
        bot.sends_file(room, name, "application/x-secret", content)
        assert javad.receives_file(room, bot, name) == content
        refused_in_the_clear(bot, room)
