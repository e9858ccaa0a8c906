"""What operators and their tools ask."""

from __future__ import annotations

from homeserver.web.heads import Heads
from tests.deployment import Deployment
from tests.support import aio


@aio
async def test_metrics_are_text_and_say_so_once(deployment: Deployment) -> None:
    answer = await deployment.site.call("GET", "/metrics")
    assert answer.status == 200
    head = Heads(0).head(answer, 0, shared=False).decode()
    types = [line for line in head.split("\r\n") if line.lower().startswith("content-type:")]
    assert len(types) == 1
    assert types[0].startswith("Content-Type: text/plain; version=")


@aio
async def test_health_names_the_nodes_that_are_down(deployment: Deployment) -> None:
    assert (await deployment.asked("GET", "/health")).json == {"status": "ok", "nodes_down": []}
