"""What a witness signs and what not, and what an alarm proves."""

from __future__ import annotations

from dataclasses import replace

import pytest

from homeserver.protocol import branching, log_alarms, merkle, witnessing
from homeserver.protocol.checkpoints import Head
from homeserver.protocol.log_alarms import Kind, Link, NoAlarm, Side, base64
from homeserver.protocol.merkle import EMPTY_ROOT
from homeserver.protocol.signed_notes import InvalidNote
from homeserver.protocol.signing import SigningKey
from homeserver.protocol.witnessing import Contradicted, Elsewhere, NotSigned, Submission, Unbelieved, Unproved
from tests.transparency.logs_of_others import Log, Witness, leaves

NOTHING = Head(0, EMPTY_ROOT)
LOG = Log(leaves(20))


def test_a_submission_is_read_as_it_was_written() -> None:
    for old, size in ((0, 0), (0, 7), (5, 20), (8, 9), (20, 20)):
        made = LOG.submission(old, size)
        assert witnessing.read(made.write()) == made


def test_what_is_no_submission_is_refused() -> None:
    whole = LOG.submission(5, 20).write()
    lines = whole.split(b"\n")
    for wrong in (
        b"",
        b"\n\n",
        whole[1:],
        whole.replace(b"old 5", b"old 05"),
        whole.replace(b"old 5", b"old -5"),
        whole.replace(b"old 5", b"old"),
        whole.replace(b"old 5", "old ٥".encode()),
        whole.replace(b"old 5\n", b"old 5\r\n"),
        b"\n".join([lines[0], b"AAAA", *lines[1:]]),
        b"\n".join([lines[0], b"!" * 44, *lines[1:]]),
        b"\n".join([lines[0], *lines[1:2] * 64, *lines[1:]]),
        whole.replace(b"\n\n", b"\n", 1),
        whole.rstrip(b"\n"),
    ):
        with pytest.raises(InvalidNote):
            witnessing.read(wrong)
    for wrong in (b"", b"7 \n", b"x", b"-1", b"\xff", b"07\n"):
        with pytest.raises(InvalidNote):
            witnessing.read_size(wrong)
    assert witnessing.read_size(b"70\n") == 70


def test_a_witness_signs_what_goes_on() -> None:
    held = NOTHING
    for size in (0, 1, 2, 3, 3, 8, 13, 20):
        held = witnessing.judge(LOG.submission(held.size, size), LOG.key, held).head
        assert held == LOG.head(size)


def _refusal(submission: Submission, held: Head, log: Log = LOG) -> NotSigned:
    with pytest.raises(NotSigned) as fault:
        witnessing.judge(submission, log.key, held)
    return fault.value


def test_a_witness_signs_nothing_else() -> None:
    held = LOG.head(7)
    assert isinstance(_refusal(LOG.submission(5, 20), held), Elsewhere)
    assert str(_refusal(LOG.submission(0, 5), held).status) == "409"
    assert _refusal(LOG.submission(9, 8), held).status == 400
    stranger = Log(LOG.leaves)
    stranger.signer = SigningKey("log", b"x" * 32)
    assert isinstance(_refusal(stranger.submission(7, 20), held), Unbelieved)
    other = Log(LOG.leaves, "another.example/log")
    assert isinstance(_refusal(other.submission(7, 20), held), Unbelieved)
    assert isinstance(_refusal(replace(LOG.submission(7, 20), proof=()), held), Unproved)
    assert isinstance(_refusal(replace(LOG.submission(7, 7), proof=(bytes(32),)), held), Unproved)


def test_no_bit_of_a_proof_may_be_another() -> None:
    held, good = LOG.head(7), LOG.submission(7, 20)
    for place, each in enumerate(good.proof):
        for bit in range(0, 256, 5):
            wrong = bytearray(each)
            wrong[bit // 8] ^= 1 << bit % 8
            proof = (*good.proof[:place], bytes(wrong), *good.proof[place + 1 :])
            assert isinstance(_refusal(replace(good, proof=proof), held), Unproved)  # and it accuses nobody


def _forked(kind: str) -> Log:
    told = LOG.leaves[:]
    if kind == "removed":
        del told[3]
    elif kind == "reordered":
        told[3], told[4] = told[4], told[3]
    elif kind == "back-dated":
        told.insert(2, b"long ago")
    return Log(told)


@pytest.mark.parametrize("kind", ["removed", "reordered", "back-dated"])
@pytest.mark.parametrize("size", [7, 13])
def test_another_history_accuses_its_log(kind: str, size: int) -> None:
    held = LOG.head(size)
    for log, fault in (
        (_forked(kind), _refusal(_forked(kind).submission(size, 18), held)),
        (_forked(kind), _refusal(_forked(kind).submission(size, size), held)),
    ):
        assert isinstance(fault, Contradicted)
        shown = 18 if fault.fork.proof else size
        assert fault.fork.other == log.head(size).root
        alarm = _alarm(held=LOG.note(size).write(), shown=log.note(shown).write(), fault=fault)
        log_alarms.check(alarm)
        for wrong in (
            replace(alarm, other=base64(held.root)),
            replace(alarm, other=base64(bytes(32))),
            replace(alarm, other="!"),
            replace(alarm, held=log.note(size).write().decode()),
            replace(alarm, shown=LOG.note(shown).write().decode()),
            replace(alarm, origin="another.example/log"),
            replace(alarm, key=Witness("w.example").key.write()),
            replace(alarm, held="nothing"),
        ):
            with pytest.raises(NoAlarm):
                log_alarms.check(wrong)


def test_a_smaller_one_accuses_its_log_too() -> None:
    for kind in ("removed", "reordered", "back-dated"):
        lie = _forked(kind)
        fork = branching.compare(LOG.head(13), lie.head(8), LOG.roots())
        assert fork is not None
        alarm = _alarm(LOG.note(13).write(), lie.note(8).write(), Contradicted(409, fork))
        log_alarms.check(alarm)
        for wrong in (
            replace(alarm, shown=LOG.note(8).write().decode()),
            replace(alarm, held=LOG.note(12).write().decode()),
            replace(alarm, other=base64(lie.head(8).root)),
        ):
            with pytest.raises(NoAlarm):
                log_alarms.check(wrong)


def test_of_a_power_of_two_the_proof_alone_accuses_nobody() -> None:
    for kind in ("removed", "reordered", "back-dated"):
        assert isinstance(_refusal(_forked(kind).submission(8, 18), LOG.head(8)), Unproved)
        assert isinstance(_refusal(_forked(kind).submission(8, 8), LOG.head(8)), Contradicted)
    assert merkle.beginning(7, 18, LOG.head(18).root, LOG.proof(7, 18)) == LOG.head(7).root
    assert merkle.beginning(7, 18, LOG.head(17).root, LOG.proof(7, 18)) is None


def _alarm(held: bytes, shown: bytes, fault: Contradicted) -> Link:
    return Link(
        number=1,
        previous="",
        time=5,
        kind=Kind.TWO_HISTORIES,
        origin=LOG.origin,
        side=Side.WITNESS,
        key=LOG.key.write(),
        held=held.decode(),
        shown=shown.decode(),
        other=base64(fault.fork.other),
        proof=tuple(base64(each) for each in fault.fork.proof),
    )


def test_that_a_log_was_set_back_is_proved_by_its_own_signatures() -> None:
    set_back = Link(
        number=1,
        previous="",
        time=5,
        kind=Kind.SET_BACK,
        origin=LOG.origin,
        key=LOG.key.write(),
        held=LOG.note(9).write().decode(),
        shown=LOG.note(4).write().decode(),
        witness="zurich",
    )
    log_alarms.check(set_back)
    with pytest.raises(NoAlarm, match="not behind"):
        log_alarms.check(replace(set_back, held=set_back.shown, shown=set_back.held))


def _chain() -> list[bytes]:
    first = Link(number=1, previous="", time=1, kind=Kind.SET_BACK, origin="a")
    second = Link(number=2, previous=log_alarms.digest(first.write()), time=2, kind=Kind.TWO_HISTORIES, origin="b")
    third = Link(
        number=3, previous=log_alarms.digest(second.write()), time=3, kind=Kind.ENDED, origin="a", ends=1, reason="so"
    )
    return [each.write() for each in (first, second, third)]


def test_a_chain_of_alarms_misses_a_link() -> None:
    links = _chain()
    assert list(log_alarms.chain_faults(links)) == []
    read = [log_alarms.read(each) for each in links]
    assert [each.number for each in log_alarms.open_alarms(read)] == [2]
    for wrong in (
        links[1:],
        [links[0], links[2]],
        [links[1], links[0], links[2]],
        [links[0], links[1].replace(b'"time":2', b'"time":9'), links[2]],
        [links[0], b"{}", links[2]],
        [links[0], links[1] + b" ", links[2]],
        [links[0], links[1].replace(b'"held":""', b'"held":[]'), links[2]],
        [links[0], links[1].replace(b'"time":2', b'"time":true'), links[2]],
        [links[0], links[1].replace(b'"proof":[]', b'"proof":[1]'), links[2]],
    ):
        assert list(log_alarms.chain_faults(wrong)) != []
