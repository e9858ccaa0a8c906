"""The verifiable random function: the vectors of RFC 9381 (appendix B.3), and no other output that can be proved."""

from __future__ import annotations

import pytest

from homeserver.protocol.vrf import InvalidVrfProof, VrfKey, output, output_of

VECTORS = [
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "8657106690b5526245a92b003bb079ccd1a92130477671f6fc01ad16f26f723f26f8a57ccaed74ee1b190bed1f479d97"
        "27d2d0f9b005a6e456a35d4fb0daab1268a1b0db10836d9826a528ca76567805",
        "90cf1df3b703cce59e2a35b925d411164068269d7b2d29f3301c03dd757876ff"
        "66b71dda49d2de59d03450451af026798e8f81cd2e333de5cdf4f3e140fdd8ae",
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "f3141cd382dc42909d19ec5110469e4feae18300e94f304590abdced48aed5933bf0864a62558b3ed7f2fea45c92a465"
        "301b3bbf5e3e54ddf2d935be3b67926da3ef39226bbc355bdc9850112c8f4b02",
        "eb4440665d3891d668e7e0fcaf587f1b4bd7fbfe99d0eb2211ccec90496310eb"
        "5e33821bc613efb94db5e5b54c70a848a0bef4553a41befc57663b56373a5031",
    ),
    (
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "9bc0f79119cc5604bf02d23b4caede71393cedfbb191434dd016d30177ccbf8096bb474e53895c362d8628ee9f9ea3c0"
        "e52c7a5c691b6c18c9979866568add7a2d41b00b05081ed0f58ee5e31b3a970e",
        "645427e5d00c62a23fb703732fa5d892940935942101e456ecca7bb217c61c45"
        "2118fec1219202a0edcf038bb6373241578be7217ba85a2687f7a0310b2df19f",
    ),
]

KEY = VrfKey(b"a" * 32)
MESSAGE = b"@alice:example.org"
PROOF = KEY.prove(MESSAGE)
ORDER = 2**252 + 27742317777372353535851937790883648493


@pytest.mark.parametrize(("seed", "public", "message", "proof", "expected"), VECTORS)
def test_the_vectors(seed: str, public: str, message: str, proof: str, expected: str) -> None:
    key, asked = VrfKey(bytes.fromhex(seed)), bytes.fromhex(message)
    assert key.public.hex() == public
    assert key.prove(asked).hex() == proof
    assert output(key.public, asked, bytes.fromhex(proof)).hex() == expected
    assert key.output(asked).hex() == expected


def test_it_tells_messages_and_keys_apart() -> None:
    assert output(KEY.public, MESSAGE, PROOF) == KEY.output(MESSAGE) == output_of(PROOF)
    assert KEY.output(MESSAGE) != KEY.output(b"@bob:example.org")
    assert KEY.output(MESSAGE) != VrfKey(b"b" * 32).output(MESSAGE)
    for public, message in [(KEY.public, b"@bob:example.org"), (VrfKey(b"b" * 32).public, MESSAGE)]:
        with pytest.raises(InvalidVrfProof, match="not by this key"):
            output(public, message, PROOF)


@pytest.mark.parametrize("start", range(5))
def test_no_bit_of_a_proof_can_be_forged(start: int) -> None:
    for bit in range(start, 8 * len(PROOF), 5 * 3):  # every part of it
        forged = bytearray(PROOF)
        forged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(InvalidVrfProof):
            output(KEY.public, MESSAGE, bytes(forged))


def test_a_proof_is_written_in_one_way() -> None:
    """The same number in another writing would be another proof."""
    scalar = int.from_bytes(PROOF[48:], "little") + ORDER
    with pytest.raises(InvalidVrfProof, match="too large"):
        output(KEY.public, MESSAGE, PROOF[:48] + scalar.to_bytes(32, "little"))
    for raw in (b"", PROOF[:-1], PROOF + b"\0"):
        with pytest.raises(InvalidVrfProof, match="80 bytes"):
            output(KEY.public, MESSAGE, raw)


@pytest.mark.parametrize(
    "point", [b"\x01" + bytes(31), bytes(32), b"\xec" + b"\xff" * 30 + b"\x7f", b"\x02" + bytes(31)]
)
def test_points_of_small_order_prove_nothing(point: bytes) -> None:
    with pytest.raises(InvalidVrfProof):
        output(point, MESSAGE, PROOF)
    with pytest.raises(InvalidVrfProof):
        output(KEY.public, MESSAGE, point + PROOF[32:])


def test_the_secret_is_not_shown() -> None:
    assert repr(KEY) == f"<VrfKey {KEY.public.hex()}>"
    with pytest.raises(ValueError, match="32 bytes"):
        VrfKey(b"short")
