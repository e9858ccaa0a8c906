"""Secrets of epochs: any k of n shares open them, fewer do not; what else is entered is refused by its place."""

from __future__ import annotations

import itertools
import random
from typing import NamedTuple

import pytest
from nacl.public import PrivateKey

from homeserver.protocol import epochs
from homeserver.protocol.epochs import (
    BoxUnopened,
    Epoch,
    Period,
    SessionRecord,
    ShareFalse,
    ShareOfAnother,
    SharesTooFew,
    ShareTwice,
    ShareUnreadable,
)

PERIOD = Period(1_789_000_000_000, 1_791_000_000_000)
RECORD = SessionRecord("@nima:example.org", "PHONE", "198.51.100.7", "Telephone/1.0", 1_790_000_000_000)


class Made(NamedTuple):
    epoch: Epoch
    words: list[str]


def make(custodians: int, threshold: int, number: int = 1, node: str = "tehran") -> Made:
    keys = {f"custodian {n}": PrivateKey.generate() for n in range(custodians)}
    epoch = epochs.born(node, number, {name: bytes(key.public_key) for name, key in keys.items()}, threshold, PERIOD)
    opened = [epochs.open_share(epoch.shares[name].box, bytes(key)) for name, key in keys.items()]
    assert [(each.node, each.epoch, each.custodian, each.threshold, each.period) for each in opened] == [
        (node, number, name, threshold, PERIOD) for name in keys
    ]
    return Made(epoch, [each.words for each in opened])


@pytest.fixture(scope="module")
def made() -> Made:
    return make(5, 3)


def test_any_sufficient_shares_open_it_and_fewer_do_not() -> None:
    rng = random.Random(2)
    for custodians, threshold in [(2, 2), (3, 2), (4, 3), (16, 5)]:
        epoch, words = make(custodians, threshold, number=rng.randrange(1, 10**9))
        box = epochs.seal(epoch.node, epoch.number, epoch.public_key, RECORD)
        for _ in range(3):
            chosen = rng.sample(words, rng.randint(threshold, custodians))
            with epochs.combine(epoch, chosen) as secret:
                assert secret.open(box) == RECORD
            with pytest.raises(SharesTooFew, match=rf"^{threshold - 1} of the {threshold} "):
                epochs.combine(epoch, rng.sample(words, threshold - 1))


def test_every_combination_opens_it(made: Made) -> None:
    box = epochs.seal("tehran", 1, made.epoch.public_key, RECORD)
    assert all(
        epochs.combine(made.epoch, chosen).open(box) == RECORD for chosen in itertools.combinations(made.words, 3)
    )


def test_shares_may_be_typed_in_any_case_and_with_any_space(made: Made) -> None:
    typed = [made.words[0].upper(), " \n" + made.words[1].replace(" ", "\t\n "), made.words[4]]
    assert epochs.recognise(made.epoch, typed) == ["custodian 0", "custodian 1", "custodian 4"]
    epochs.combine(made.epoch, typed).wipe()


def test_a_mistyped_share_is_named(made: Made) -> None:
    words = made.words[1].split()
    words[9] = "academic" if words[9] != "academic" else "acid"
    for wrong in (" ".join(words), " ".join(words[:-1]), "abandon " * 33, "", "\ud800"):
        with pytest.raises(ShareUnreadable, match=r"^share 2 "):
            epochs.combine(made.epoch, [made.words[0], wrong, made.words[2]])


def test_a_share_that_is_entered_twice_is_named(made: Made) -> None:
    with pytest.raises(ShareTwice, match=r"^share 3 is that of custodian 1, .* share 1$"):
        epochs.combine(made.epoch, [made.words[1], made.words[0], made.words[1].upper()])


@pytest.mark.parametrize(("number", "node"), [(2, "tehran"), (1, "paris")])
def test_a_share_of_another_epoch_is_named(made: Made, number: int, node: str) -> None:
    other = make(5, 3, number, node)
    with pytest.raises(ShareOfAnother, match=r"^share 2 is of another epoch, not of epoch 1 of tehran"):
        epochs.combine(made.epoch, [made.words[0], other.words[1], made.words[2]])


def test_a_share_that_was_never_made_is_named(made: Made) -> None:
    again = make(5, 3)  # the same node and number, as after a copy of the node was made
    with pytest.raises(ShareFalse, match=r"^share 1 is none of those"):
        epochs.combine(made.epoch, [again.words[0], made.words[1], made.words[2]])


def test_boxes_open_by_their_key_alone_and_as_they_were_sealed(made: Made) -> None:
    secret = epochs.combine(made.epoch, made.words)
    box = epochs.seal("tehran", 1, made.epoch.public_key, RECORD)
    for at in random.Random(3).sample(range(len(box)), 20):
        with pytest.raises(BoxUnopened):
            secret.open(box[:at] + bytes([box[at] ^ 1]) + box[at + 1 :])
    other = make(2, 2, 2)
    with pytest.raises(BoxUnopened):
        epochs.combine(other.epoch, other.words).open(box)
    with pytest.raises(BoxUnopened):
        secret.open(made.epoch.shares["custodian 0"].box)
    with pytest.raises(BoxUnopened, match="another epoch"):
        secret.open(epochs.seal("paris", 1, made.epoch.public_key, RECORD))
    with pytest.raises(BoxUnopened):
        epochs.open_share(made.epoch.shares["custodian 0"].box, bytes(PrivateKey.generate()))


def test_a_secret_is_gone_once_it_was_used(made: Made) -> None:
    box = epochs.seal("tehran", 1, made.epoch.public_key, RECORD)
    with epochs.combine(made.epoch, made.words) as secret:
        assert secret.open(box) == RECORD
    with pytest.raises(BoxUnopened):
        secret.open(box)


def test_the_length_of_a_box_says_little() -> None:
    key = bytes(PrivateKey.generate().public_key)
    lengths = {
        len(epochs.seal("tehran", 1, key, RECORD._replace(address="1.1.1.1" + "1" * n, user_agent="x" * n)))
        for n in range(30)
    }
    assert len(lengths) == 1
    assert len(epochs.seal("tehran", 1, key, RECORD._replace(user_agent="x" * 100_000))) < 1024


def test_what_cannot_be_split_is_refused() -> None:
    key = bytes(PrivateKey.generate().public_key)
    for custodians, threshold in [(1, 1), (3, 1), (2, 3), (0, 0), (17, 2)]:
        with pytest.raises(ValueError, match="cannot be"):
            epochs.born("tehran", 1, {str(n): key for n in range(custodians)}, threshold, PERIOD)
    for bad in (bytes(32), b"short"):
        with pytest.raises(ValueError, match="nothing can be sealed to the key of b"):
            epochs.born("tehran", 1, {"a": key, "b": bad}, 2, PERIOD)


def test_an_epoch_knows_whom_it_is_for(made: Made) -> None:
    keys = {name: share.key for name, share in made.epoch.shares.items()}
    assert made.epoch.is_for(keys, 3)
    assert not made.epoch.is_for(keys, 2)
    assert not made.epoch.is_for({**keys, "custodian 0": bytes(PrivateKey.generate().public_key)}, 3)
    assert not made.epoch.is_for(dict(list(keys.items())[:4]), 3)


def test_keys_are_read_as_they_are_written() -> None:
    key = bytes(PrivateKey.generate().public_key)
    assert epochs.read_key(epochs.write_key(key)) == key
    for bad in ("", "short", epochs.write_key(key) + "=", epochs.write_key(key + b"x")):
        with pytest.raises(ValueError, match=r"X25519|Base64"):
            epochs.read_key(bad)
