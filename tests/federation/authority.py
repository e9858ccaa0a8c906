"""A private certificate authority, and TLS servers on 127.0.0.1 that say what a test wants."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from config.sections.serving import Tls

DAY = timedelta(days=1)


@cache
def _key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)


class Authority:
    """Signs certificates. ``ca_file`` is what trusts them."""

    def __init__(self, directory: Path, name: str = "authority") -> None:
        self.directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.ca_file = directory / f"{name}.pem"
        constraints = x509.BasicConstraints(ca=True, path_length=None)
        made = self._builder(self._name, self._key.public_key()).add_extension(constraints, critical=True)
        self.ca_file.write_bytes(made.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))

    def issue(self, *names: str, expired: bool = False) -> Tls:
        """A certificate for these names and addresses, with its key, in files."""
        stem = "_".join(names).replace(":", ".").replace("*", "star") + ("_expired" if expired else "")
        tls = Tls(certificate=self.directory / f"{stem}.crt", key=self.directory / f"{stem}.key")
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "server")])
        builder = self._builder(subject, _key().public_key(), expired=expired)
        builder = builder.add_extension(x509.SubjectAlternativeName([_alternative(name) for name in names]), False)
        tls.certificate.write_bytes(builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        form, none = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        tls.key.write_bytes(_key().private_bytes(serialization.Encoding.PEM, form, none))
        return tls

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey, *, expired: bool = False
    ) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - 3 * DAY)
            .not_valid_after(now - DAY if expired else now + DAY)
        )


@dataclass
class Asked:
    """A request as it arrived. ``head`` are its lines, ``sni`` the name that the TLS asked for."""

    head: list[str]
    body: bytes
    sni: str | None

    @property
    def line(self) -> str:
        """Method, target and version."""
        return self.head[0]

    def header(self, name: str) -> str | None:
        """The value of a header."""
        found = [line.partition(": ")[2] for line in self.head[1:] if line.lower().startswith(name.lower() + ":")]
        return found[0] if found else None


Script = Callable[[Asked, asyncio.StreamWriter], Awaitable[object]]


@dataclass
class Stranger:
    """A TLS server that answers each request as a script says, and remembers what it was asked."""

    tls: Tls
    script: Script
    asked: list[Asked] = field(default_factory=list)
    connections: int = 0
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    _server: asyncio.Server | None = None
    _tasks: set[asyncio.Task[Any]] = field(default_factory=set)
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)

    async def open(self, host: str = "127.0.0.1") -> int:
        """Listen; the port."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.tls.certificate, self.tls.key)
        context.sni_callback = lambda connection, name, _: setattr(connection, "sni", name)
        self._server = await asyncio.start_server(self._serve, host, 0, ssl=context, limit=2**20)
        return int(self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """Stop listening and drop all connections."""
        assert self._server
        self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def drop(self) -> None:
        """End the open connections as an idle server does, and wait until that is done."""
        for writer in list(self._writers):
            writer.close()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self.connections += 1
        self._tasks.add(task)
        self._writers.add(writer)
        sni = getattr(writer.get_extra_info("ssl_object"), "sni", None)
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError, ssl.SSLError):
                while True:
                    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")[:-2]
                    asked = Asked(head, b"", sni)
                    asked.body = await reader.readexactly(int(asked.header("content-length") or 0))
                    self.asked.append(asked)
                    self.arrived.set()
                    await self.script(asked, writer)
                    await writer.drain()
                    if writer.is_closing():
                        return
        finally:
            writer.transport.abort()
            self._tasks.discard(task)
            self._writers.discard(writer)


def says(body: bytes, status: int = 200, /, **headers: str) -> Script:
    """Answers everything with this."""

    async def script(_: Asked, writer: asyncio.StreamWriter) -> None:
        lines = [f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items()]
        writer.write(f"HTTP/1.1 {status} X\r\n{''.join(lines)}Content-Length: {len(body)}\r\n\r\n".encode() + body)

    return script


def writes(*parts: bytes, close: bool = True) -> Script:
    """Writes these bytes, and nothing but them."""

    async def script(_: Asked, writer: asyncio.StreamWriter) -> None:
        for part in parts:
            writer.write(part)
            await writer.drain()
        if close:
            writer.close()

    return script


async def silence(_: Asked, __: asyncio.StreamWriter) -> None:
    """Never answers."""
    await asyncio.Event().wait()


class Changing:
    """A script that can be exchanged for another."""

    def __init__(self, script: Script) -> None:
        self.script = script

    async def __call__(self, asked: Asked, writer: asyncio.StreamWriter) -> None:
        await self.script(asked, writer)
