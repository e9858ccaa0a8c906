"""Listening sockets: addresses, TLS, and which routes each of them serves.

spec: client-server-api/#api-standards
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

from OpenSSL import SSL
from twisted.internet import tcp, unix
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from twisted.internet.main import CONNECTION_LOST
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from zope.interface import implementer

from config.sections.serving import Limits as Bounded
from config.sections.serving import Listener
from homeserver.web.connections import Connections, Patience
from homeserver.web.http1 import Connection, Network, Service
from homeserver.web.parsing import Bounds
from homeserver.web.routes import Resource
from homeserver.web.site import Site

BACKLOG = 1024
RECEIVED = 256 * 1024
"""Bytes that are received at once."""

_received = memoryview(bytearray(RECEIVED))


class _Prompt:
    """Writes at once what the socket takes, so that an answer costs no further turn of the event loop."""

    def write(self: Any, data: bytes) -> None:
        if self.connected and not self.dataBuffer and not self._tempDataBuffer and not self._writeDisconnected:
            rest: bytes | memoryview = data
            while rest:
                written = self.writeSomeData(rest)
                if not isinstance(written, int):
                    break  # an error shows again, and is seen to, when the event loop writes
                rest = memoryview(rest)[written:]
                if written < self.SEND_LIMIT:
                    break  # all of it, or the socket has enough
            data = bytes(rest)
        super().write(data)  # type: ignore[misc]  # of the transport that this is mixed into


class _TcpConnection(_Prompt, tcp.Server):
    """Receives to one place for all, where much is received at once and nothing has to be made for it."""

    def doRead(self) -> Any:  # noqa: N802
        """Hand on what has come."""
        try:
            count = self.socket.recv_into(_received)
        except BlockingIOError:
            return None
        except OSError:
            return CONNECTION_LOST
        view = _received[:count]
        # of what Connection is handed it keeps nothing
        return self._dataReceived(cast(bytes, view) if isinstance(self.protocol, Connection) else bytes(view))


class _TcpPort(tcp.Port):
    transport = _TcpConnection


class _UnixConnection(_Prompt, unix.Server):
    pass


class _UnixPort(unix.Port):
    transport = _UnixConnection


@implementer(IOpenSSLServerConnectionCreator)
class ServerCertificate:
    """The certificate of a listener, from PEM files that can be read again while it is in use.

    Raises OpenSSL.SSL.Error when the files cannot be read, or are no certificate and its key.
    """

    def __init__(self, certificate: Path, key: Path) -> None:
        self._certificate = certificate
        self._key = key
        self._context = self._load()

    def reload(self) -> None:
        """Use what is in the files now, for new connections. On an error the old certificate stays."""
        self._context = self._load()

    def serverConnectionForTLS(self, tls: TLSMemoryBIOProtocol) -> SSL.Connection:  # noqa: N802
        """Called by Twisted for each new connection."""
        return SSL.Connection(self._context, None)

    def _load(self) -> SSL.Context:
        context = SSL.Context(SSL.TLS_SERVER_METHOD)
        context.set_min_proto_version(SSL.TLS1_2_VERSION)
        context.set_options(SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION)
        context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
        context.use_certificate_chain_file(str(self._certificate))
        context.use_privatekey_file(str(self._key))
        context.check_privatekey()
        context.set_alpn_select_callback(_choose_protocol)
        return context


def _choose_protocol(connection: SSL.Connection, offered: list[bytes]) -> Any:
    return b"http/1.1" if b"http/1.1" in offered else SSL.NO_OVERLAPPING_PROTOCOLS


def patience(bounded: Bounded) -> Patience:
    """What the settings say about time."""
    return Patience(receive=bounded.receive_timeout.seconds, idle=bounded.idle_timeout.seconds)


class Listening:
    """The open listeners of a process."""

    def __init__(self, site: Site[Any], connections: Connections, bounds: Bounds | None = None) -> None:
        self._site = site
        self._connections = connections
        self._bounds = bounds or Bounds()
        self._ports: list[tcp.Port] = []
        self._closing: list[Any] = []  # what fires when a socket has been closed
        self._certificates: list[ServerCertificate] = []
        self.addresses: list[str] = []
        """Where the server can be reached, one web address for each listener; ``unix:`` and a path for a socket."""

    def open(self, listeners: Iterable[Listener]) -> None:
        """Listen on all of them, or on none: raises OSError for an address that cannot be had, and for a certificate
        what `ServerCertificate` raises."""
        from twisted.internet import reactor  # installed by now, and not before

        try:
            for listener in listeners:
                factory = self._service(listener.resources, listener.trusted_proxies)
                if listener.tls is not None:
                    certificate = ServerCertificate(listener.tls.certificate, listener.tls.key)
                    self._certificates.append(certificate)
                    factory = TLSMemoryBIOFactory(cast(Any, certificate), False, factory)
                    factory.noisy = False
                port = _TcpPort(listener.port, factory, BACKLOG, listener.address, reactor)
                self._start(port)
                host = f"[{listener.address}]" if ":" in listener.address else listener.address
                scheme = "http" if listener.tls is None else "https"
                self.addresses.append(f"{scheme}://{host}:{cast(Any, port).getHost().port}")
        except BaseException:
            self._stop_accepting()
            raise

    def open_socket(self, path: Path, resources: Iterable[str], mode: int = 0o660) -> None:
        """Listen on a UNIX socket too. Raises OSError."""
        from twisted.internet import reactor

        self._start(_UnixPort(str(path).encode(), self._service(resources, ()), BACKLOG, mode, reactor))
        self.addresses.append(f"unix:{path}")

    def reload_certificates(self) -> None:
        """Read all certificates again. Raises what `ServerCertificate` raises; then that one and the rest stay."""
        for certificate in self._certificates:
            certificate.reload()

    async def close(self, grace: float = 10.0) -> None:
        """Accept nothing more, let requests end within ``grace`` seconds, and close."""
        loop = asyncio.get_running_loop()
        self._stop_accepting()
        while self._closing:
            await self._closing.pop().asFuture(loop)
        await self._connections.close(grace)

    def _service(self, resources: Iterable[str], proxies: Iterable[Network]) -> Any:
        table = self._site.table.serving(Resource(name) for name in resources)
        return Service(self._site, self._connections, table, proxies=proxies, bounds=self._bounds)

    def _start(self, port: tcp.Port) -> None:
        try:
            port.startListening()
        except CannotListenError as error:
            raise OSError(str(error)) from error
        self._ports.append(port)

    def _stop_accepting(self) -> None:
        ports, self._ports = self._ports, []
        self._closing += [cast(Any, port).stopListening() for port in ports]
        self.addresses.clear()
