"""Answers that are changed while they are on their way: what a hostile server could have said."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
import pytest

from homeserver.runtime.exchange import Answer
from tests.network import Network

Change = Callable[[Any], None]


def spoil(network: Network, monkeypatch: pytest.MonkeyPatch, part: str, change: Change) -> None:
    """Change the answers to requests that have ``part`` in their target."""
    carry = network.carry

    async def changed(*args: Any) -> Answer:
        answer: Answer = await carry(*args)
        if part in args[3] and answer.status == 200:
            value = orjson.loads(answer.body)
            change(value)
            return Answer(200, answer.headers, orjson.dumps(value))
        return answer

    monkeypatch.setattr(network, "carry", changed)
