"""Killing a process at a place of its program, without warning: what it has written until then is all that is left."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from functools import partial, wraps
from importlib import import_module
from typing import Any


def killed_at(place: str, *, after: bool = False) -> Callable[[], None]:
    """What is to be called first in a process (see `tests.interop.forked.Forked`), so that it kills itself when a
    function is called, or has done its work. ``place``: where the function is looked up: ``module:name``."""
    return partial(_set, place, after)


def _set(place: str, after: bool) -> None:
    module, _, name = place.partition(":")
    owner = import_module(module)
    setattr(owner, name, _killing(getattr(owner, name), after))


def _killing(real: Callable[..., Any], after: bool) -> Callable[..., Any]:
    if not asyncio.iscoroutinefunction(real):

        @wraps(real)
        def at_once(*arguments: Any, **named: Any) -> None:
            if after:
                real(*arguments, **named)
            _die()

        return at_once

    @wraps(real)
    async def later(*arguments: Any, **named: Any) -> None:
        if after:
            await real(*arguments, **named)
        _die()

    return later


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
