"""Letters about what has come are notifications: the domain of an address says whether the policy lets one go."""

from __future__ import annotations

from config.load import policy_from_text
from tests.accounts.post import Post, post
from tests.deployment import NAME, SETTINGS
from tests.matrix.conftest import engines
from tests.matrix.rows import OUT
from tests.matrix.servers import GERMANY
from tests.matrix.world import both_ways
from tests.push.stage import Put, put
from tests.push.test_other_ways import LETTERS, SET, owning
from tests.rooms.play import cast
from tests.support import aio

__all__ = ["cast", "engines", "post", "put"]
PEER = '[[peers]]\nserver = "mail.example"\njurisdiction = "DE"\n'


@aio
async def test_a_letter_goes_only_where_notifications_may(put: Put, post: Post) -> None:
    open_border = GERMANY + PEER + both_ways("IR", "DE")
    stage = await put(settings=SETTINGS + post.settings, policy=open_border)
    closed = policy_from_text(GERMANY + PEER + both_ways("IR", "DE", (OUT, "notifications")), "residency.toml", NAME)
    alice, bob = await owning(await stage.play.user("alice")), await stage.play.user("bob")
    room, clock, node = await stage.play.room_of(bob, alice), stage.play.deployment.clock, stage.play.node("tehran")
    assert (await alice.asks("POST", SET, LETTERS)).json == {}
    await stage.looked(node)
    for policy, written in ((closed, 0), (policy_from_text(open_border, "residency.toml", NAME), 1)):
        stage.server.policy.now = policy
        await stage.play.send(bob, room, "hello")
        await stage.looked(node)
        await clock.advance(24 * 3600.0)
        await stage.quiet(node)
        assert len(post.letters) == written
        answer = await alice.asks("POST", SET, LETTERS)
        assert answer.json.get("org.domicile.flow", {}).get("class") == (None if written else "notifications")
