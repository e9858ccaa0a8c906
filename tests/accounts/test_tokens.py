"""The form of access and refresh tokens."""

from __future__ import annotations

import secrets

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeserver.accounts import tokens
from homeserver.protocol.errors import UnknownToken


@given(st.binary(min_size=16, max_size=16), st.sampled_from([tokens.ACCESS, tokens.REFRESH]))
def test_a_token_says_whose_it_is(owner: bytes, kind: str) -> None:
    token, digest = tokens.make(kind, owner)
    assert tokens.read(kind, token) == (owner, digest)
    other = tokens.REFRESH if kind == tokens.ACCESS else tokens.ACCESS
    with pytest.raises(UnknownToken):
        tokens.read(other, token)


@given(st.text())
def test_anything_else_is_none(text: str) -> None:
    for kind in (tokens.ACCESS, tokens.REFRESH):
        with pytest.raises(UnknownToken):
            tokens.read(kind, text)


def test_tokens_are_never_the_same() -> None:
    owner = secrets.token_bytes(16)
    assert len({tokens.make(tokens.ACCESS, owner)[0] for _ in range(1000)}) == 1000
