"""Listeners: TLS, UNIX sockets, what each serves, and proxies."""

from __future__ import annotations

import asyncio
import ipaddress
import ssl
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from OpenSSL import SSL

from config.sections.serving import Limits as Bounded
from config.sections.serving import Listener, Resource, Tls
from homeserver.runtime.clock import FakeClock
from homeserver.web.http1 import PIPELINED
from homeserver.web.limits import Bucket, Limits
from homeserver.web.server import Listening, patience
from tests.support import aio
from tests.web.stage import MIB, Client, Stage, request, stage


def make_certificate(directory: Path, name: str) -> Tls:
    """A self-signed certificate for 127.0.0.1, written to files that the next one with the same name replaces."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.now(UTC) - timedelta(days=1))
        .not_valid_after(datetime.now(UTC) + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    tls = Tls(certificate=directory / "tls.crt", key=directory / "tls.key")
    tls.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    form = serialization.PrivateFormat.PKCS8
    tls.key.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))
    return tls


def trusting(certificate: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(certificate))
    context.set_alpn_protocols(["h2", "http/1.1"])
    return context


async def tls_client(at: Stage, context: ssl.SSLContext) -> Client:
    return at.adopt(*await asyncio.open_connection("127.0.0.1", at.port, ssl=context))


@aio
async def test_tls(tmp_path: Path) -> None:
    tls = make_certificate(tmp_path, "first")
    async with stage(Listener(port=0, tls=tls)) as at:
        assert at.listening.addresses == [f"https://127.0.0.1:{at.port}"]
        client = await tls_client(at, trusting(tls.certificate))
        channel = client.writer.get_extra_info("ssl_object")
        assert channel.selected_alpn_protocol() == "http/1.1"
        assert channel.version() in ("TLSv1.2", "TLSv1.3")
        assert (await client.get("/hello")).status == 200
        await client.send(request("POST", "/echo", b"x" * 3 * MIB))
        assert (await client.answer()).body == b"x" * 3 * MIB
        assert len((await client.get(f"/large/{8 * MIB}")).body) == 8 * MIB
        assert (await client.get("/stream/unsized")).status == 200
        await client.send(b"GET /hello HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert (await client.answer()).status == 200
        assert await client.ended() == b""


@aio
async def test_a_refusal_reaches_a_client_over_tls_that_is_still_sending(tmp_path: Path) -> None:
    tls = make_certificate(tmp_path, "first")
    async with stage(Listener(port=0, tls=tls)) as at:
        client = await tls_client(at, trusting(tls.certificate))
        await client.send(request("POST", "/small", headers=["Content-Length: 1000000"]))
        assert (await client.answer()).status == 413
        await client.send(b"x" * 200_000)
        await at.clock.advance(5)
        assert await client.ended() == b""


@aio
async def test_a_client_over_tls_that_does_not_take_its_answer_is_dropped(tmp_path: Path) -> None:
    tls = make_certificate(tmp_path, "first")
    async with stage(Listener(port=0, tls=tls)) as at:
        client = await tls_client(at, trusting(tls.certificate))
        await client.send(request("GET", "/endless"))
        await client.head()
        (connection,) = at.members
        await at.until(lambda: connection._full and connection._writable)
        await at.clock.advance(62)
        await at.until(lambda: at.props.done == ["closed"] and not len(at.connections))


@aio
async def test_old_tls_and_no_tls_are_not_spoken(tmp_path: Path) -> None:
    tls = make_certificate(tmp_path, "first")
    async with stage(Listener(port=0, tls=tls)) as at:
        old = trusting(tls.certificate)
        old.set_ciphers("ALL:@SECLEVEL=0")
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await tls_client(at, old)
        plain = await at.client()
        await plain.send(request("GET", "/hello"))
        assert b"HTTP" not in await plain.ended()
        silent = await at.client()
        await at.until(lambda: len(at.connections) == 1)
        await at.clock.advance(32)
        assert await silent.ended() == b""
        assert at.recorder.answers == []


@aio
async def test_a_certificate_is_replaced_while_connections_go_on(tmp_path: Path) -> None:
    tls = make_certificate(tmp_path, "first")
    async with stage(Listener(port=0, tls=tls)) as at:
        before = trusting(tls.certificate)
        client = await tls_client(at, before)
        make_certificate(tmp_path, "second")
        at.listening.reload_certificates()
        with pytest.raises(ssl.SSLCertVerificationError):
            await tls_client(at, before)
        assert (await client.get("/hello")).status == 200
        assert (await (await tls_client(at, trusting(tls.certificate))).get("/hello")).status == 200
        after = trusting(tls.certificate)
        tls.key.write_text("nonsense")
        with pytest.raises(SSL.Error):
            at.listening.reload_certificates()
        assert (await (await tls_client(at, after)).get("/hello")).status == 200


@aio
async def test_a_key_must_belong_to_its_certificate(tmp_path: Path) -> None:
    tls = make_certificate(tmp_path, "first")
    (tmp_path / "other").mkdir()
    other = make_certificate(tmp_path / "other", "other")
    async with stage() as at:
        for certificate, key in ((tls.certificate, other.key), (tls.certificate, tmp_path / "absent")):
            with pytest.raises(SSL.Error):
                at.listening.open([Listener(port=0, tls=Tls(certificate=certificate, key=key))])


@aio
async def test_all_listeners_open_or_none() -> None:
    async with stage() as at:
        other = Listening(at.site, at.connections)
        other.open([Listener(port=0)])
        free = int(other.addresses[0].rpartition(":")[2])
        await other.close(0)
        with pytest.raises(OSError, match=r"Couldn.t listen"):
            other.open([Listener(port=free), Listener(port=at.port)])
        assert other.addresses == []
        await other.close(0)
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", free)
        other.open([Listener(port=free)])
        await other.close(0)
        assert (await (await at.client()).get("/hello")).status == 200


@pytest.mark.parametrize(
    ("resources", "served"),
    [
        (("client",), "/_matrix/client/v3/sync"),
        (("federation",), "/_matrix/federation/v1/version"),
        (("metrics",), "/metrics"),
        (("console",), "/hello"),
    ],
)
@aio
async def test_a_listener_serves_what_it_is_told_to(resources: tuple[Resource, ...], served: str) -> None:
    async with stage(Listener(port=0, resources=resources)) as at:
        client = await at.client()
        paths = ("/_matrix/client/v3/sync", "/_matrix/federation/v1/version", "/metrics", "/hello")
        statuses = {path: (await client.get(path)).status for path in paths}
        assert [path for path, status in statuses.items() if status != 404] == [served]
        assert (await client.get("/health")).status == 200


@aio
async def test_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "domicile.sock"
    async with stage() as at:
        at.listening.open_socket(path, ["client", "console"])
        assert at.listening.addresses[-1] == f"unix:{path}"
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        client = at.adopt(*await asyncio.open_unix_connection(path))
        assert (await client.get("/hello")).status == 200
        assert len((await client.get(f"/large/{4 * MIB}")).body) == 4 * MIB
        assert (await client.get("/metrics")).status == 404
        await client.send(request("POST", "/small", headers=["Content-Length: 5000"]))
        assert (await client.answer()).status == 413
        client.vanish()
        await at.until(lambda: not len(at.connections))
        await at.listening.close(0)
        assert not path.exists()


@aio
async def test_only_a_trusted_proxy_says_who_the_client_is() -> None:
    clock = FakeClock()

    async def statuses(trusted: tuple[str, ...], *forwarded: str) -> list[int]:
        limits = Limits({"request": Bucket(per_second=1, burst=1)}, clock.monotonic)
        proxies = tuple(ipaddress.ip_network(one) for one in trusted)
        async with stage(Listener(port=0, trusted_proxies=proxies), limits=limits) as at:
            client = await at.client()
            found = []
            for value in forwarded:
                await client.send(request("GET", "/hello", headers=[f"X-Forwarded-For: {value}"]))
                found.append((await client.answer()).status)
            return found

    assert await statuses((), "192.0.2.1", "192.0.2.2") == [200, 429]
    assert await statuses(("127.0.0.1",), "192.0.2.1", "192.0.2.2", "192.0.2.1") == [200, 200, 429]
    # what the client wrote itself stands further left than what the proxy saw
    assert await statuses(("127.0.0.1",), "10.0.0.1, 192.0.2.1", "10.0.0.2, 192.0.2.1") == [200, 429]
    chain = ("127.0.0.0/8", "10.0.0.0/8")
    assert await statuses(chain, "192.0.2.1, 10.0.0.1", "192.0.2.1, 10.0.0.2", "192.0.2.9, 10.0.0.1") == [200, 429, 200]
    assert await statuses(("127.0.0.1",), "nonsense", "\xff", "") == [200, 200, 200]
    # some proxies say the port too, which is another one for each connection
    assert await statuses(("127.0.0.1",), "192.0.2.1:5000", "192.0.2.1:5001", "192.0.2.1") == [200, 429, 429]
    assert await statuses(("127.0.0.1",), "[2001:db8::7]:5000", "[2001:db8::7]", "2001:db8::7") == [200, 429, 429]
    assert await statuses(chain, "192.0.2.1, 10.0.0.1:99", "192.0.2.9, 10.0.0.1:99", "[::1", "a:b:c") == [200] * 4


def test_what_the_settings_say_about_time() -> None:
    said = patience(Bounded())
    assert (said.receive, said.idle) == (30.0, 75.0)


@aio
async def test_what_waits_is_not_what_others_send_meanwhile() -> None:
    """All connections receive to one place: what is kept of it is a copy."""
    async with stage() as at:
        first, second = await at.client(), await at.client()
        bodies = [b"%d" % number * 20_000 for number in range(PIPELINED + 8)]
        await first.send(b"".join(request("POST", "/echo", body) for body in bodies))
        await second.send(request("POST", "/echo", b"x" * MIB))
        assert (await second.answer()).body == b"x" * MIB
        assert [(await first.answer()).body for _ in bodies] == bodies
