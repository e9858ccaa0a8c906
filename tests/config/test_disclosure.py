"""[disclosure.X]: custodians and epochs; who could never open anything, and what could never be sealed, is a fault."""

from __future__ import annotations

from pathlib import Path

import pytest
from nacl.public import PrivateKey

from config.load import load_policy
from homeserver.protocol.epochs import write_key
from tests.config.support import golden_with, policy_faults

LEILA = "9+sGivN6AzRrLHWVgW7CX7dYCcLyFKyCSa8H2mDM3jQ"
BABAK = "+1SvP7Dne0ed+/rxCQrfzUJuvPAKYET9sigFx9ouO1k"
TWIN = LEILA[:-2] + "r" + LEILA[-1]
"""The same key to X25519, which leaves out the highest bit."""
NOT_A_KEY = "wanted an x25519 public key in unpadded Base64, found "


def policy(rest: str, custodians: str = f'leila = "{LEILA}"\nbabak = "{BABAK}"\n') -> str:
    text = golden_with("approvals = 2", f"approvals = 2\n{rest}")
    return text.rstrip() + f"\n[disclosure.IR.custodians]\n{custodians}"


def test_custodians_and_epochs_are_read(tmp_path: Path) -> None:
    file = tmp_path / "residency.toml"
    file.write_text(policy('epoch = "1d"'))
    ceiling = load_policy(file, environ={}).disclosure("IR")
    assert ceiling.custodians == {"leila": LEILA, "babak": BABAK}
    assert (ceiling.threshold, ceiling.epoch.ms) == (2, 86_400_000)
    assert load_policy(file, environ={}).disclosure("FR").custodians == {}


@pytest.mark.parametrize(
    ("rest", "key", "message"),
    [
        ("threshold = 3", "threshold", "2 custodians hold shares, so that 3 could never be brought together"),
        ("threshold = 1", "threshold", "wanted a whole number from 2 to 16, found the number 1"),
        ('epoch = "91d"', "epoch", "is longer than what was sealed in it may be kept (retention.IR.sessions)"),
        ('epoch = "59m"', "epoch", "wanted an hour or more: each epoch has shares that custodians must open"),
    ],
)
def test_faults_of_epochs(tmp_path: Path, rest: str, key: str, message: str) -> None:
    assert policy_faults(tmp_path, policy(rest)) == [(59, f"disclosure.IR.{key}", message)]


@pytest.mark.parametrize(
    ("custodians", "found"),
    [
        (
            f'leila = "{LEILA}"\n',
            [(56, "threshold", "1 custodian holds shares, so that 2 could never be brought together")],
        ),
        (
            f'leila = "{LEILA}"\nbabak = "{LEILA}"\n',
            [
                (56, "threshold", "1 custodian holds shares, so that 2 could never be brought together"),
                (61, "custodians.babak", "is the key of leila too: each has their own"),
            ],
        ),
        (
            f'leila = "{LEILA}"\nbabak = "{BABAK}"\na = "{"A" * 43}"\nb = "b"\n',
            [
                (62, "custodians.a", NOT_A_KEY + f'"{"A" * 43}"'),
                (63, "custodians.b", NOT_A_KEY + '"b"'),
            ],
        ),
        (
            f'leila = "{LEILA}"\nbabak = "{BABAK}"\ntwin = "{TWIN}"\n',
            [(62, "custodians.twin", f'{NOT_A_KEY}"{TWIN}"')],
        ),
        (
            f'leila = "{LEILA}"\nbabak = "{BABAK}"\n"a\u202eb" = "{LEILA}"\n',
            [(62, "custodians.a\u202eb", 'wanted a name without white space, found "a\\U0000202eb"')],
        ),
        (
            f'leila = "{LEILA}"\nbabak = "{BABAK}"\n"c d" = "{LEILA[:-1]}R"\n',
            [(62, "custodians.c d", 'wanted a name without white space, found "c d"')],
        ),
    ],
)
def test_faults_of_custodians(tmp_path: Path, custodians: str, found: list[tuple[int, str, str]]) -> None:
    faults = policy_faults(tmp_path, policy("", custodians))
    assert faults == [(line, f"disclosure.IR.{key}", message) for line, key, message in found]


def test_too_many_custodians(tmp_path: Path) -> None:
    keys = [write_key(bytes(PrivateKey(bytes([n]) * 32).public_key)) for n in range(17)]
    found = policy_faults(tmp_path, policy("", "".join(f'c{n} = "{key}"\n' for n, key in enumerate(keys))))
    assert [(key, message) for _, key, message in found] == [
        ("disclosure.IR.custodians", "wanted at most 16 custodians, found 17")
    ]


@pytest.mark.parametrize("raw", [bytes(32), b"\x01" + bytes(31), b"\xed" + b"\xff" * 30 + b"\x7f", b"\x02" + bytes(31)])
def test_keys_by_which_nobody_can_sign(raw: bytes, tmp_path: Path) -> None:
    """A signature by some of them would be any."""
    text = golden_with("approvals = 2", "approvals = 1").rstrip()
    found = policy_faults(tmp_path, f'{text}\n[disclosure.IR.approvers]\nparisa = "{write_key(raw)}"\n')
    assert ("disclosure.IR.approvers.parisa", "wanted an ed25519 public key") in [
        (key, message[:28]) for _, key, message in found
    ]
