"""A real Synapse in an environment of its own, as the other server: on loopback, with TLS and a database of SQLite.

Its version is pinned in synapse.lock; ``tests/interop/install`` installs it.
"""

import json
import secrets
import subprocess
import time
import urllib.error
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.federation.authority import Authority
from tests.interop.api import Api
from tests.interop.client import ROOT
from tests.interop.deployment import free_port
from tests.interop.links import Link

PYTHON = ROOT / ".cache" / "synapse" / "bin" / "python"
START_SECONDS = 60.0
STOP_SECONDS = 30.0
FREELY = {"per_second": 10_000, "burst_count": 10_000}
"""A rate limit that nobody meets."""


class Synapse:
    """A Synapse in ``folder``, whose certificate ``authority`` signs; others reach it by ``link``.

    Everybody may register.
    """

    def __init__(self, folder: Path, authority: Authority) -> None:
        self.folder = folder / "synapse"
        self.folder.mkdir()
        self._port, self._federation_port = free_port(), free_port()
        self.link = Link(self._federation_port)
        self.server_name = f"127.0.0.1:{self.link.port}"
        self._process: subprocess.Popen[bytes] | None = None
        self._config = self.folder / "homeserver.yaml"
        self._config.write_text(json.dumps(self._settings(authority)))  # JSON is YAML too
        generate = ["-m", "synapse.app.homeserver", "-c", str(self._config), "--generate-keys"]
        subprocess.run([PYTHON, *generate], check=True, cwd=self.folder, capture_output=True)

    @property
    def base_url(self) -> str:
        """Where clients find it."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def log(self) -> Path:
        """What it has to say."""
        return self.folder / "synapse.log"

    def _settings(self, authority: Authority) -> dict[str, Any]:
        tls = authority.issue("127.0.0.1")
        listening = {"bind_addresses": ["127.0.0.1"], "type": "http"}
        (self.folder / "log.yaml").write_text(json.dumps(self._logging()))
        return {
            "server_name": self.server_name,
            "public_baseurl": self.base_url,
            "report_stats": False,
            "serve_server_wellknown": False,
            "pid_file": str(self.folder / "pid"),
            "listeners": [
                {**listening, "port": self._port, "tls": False, "resources": [{"names": ["client"]}]},
                {**listening, "port": self._federation_port, "tls": True, "resources": [{"names": ["federation"]}]},
            ],
            "tls_certificate_path": str(tls.certificate),
            "tls_private_key_path": str(tls.key),
            "federation_custom_ca_list": [str(authority.ca_file)],
            "ip_range_blacklist": [],
            "trusted_key_servers": [],
            "suppress_key_server_warning": True,
            # A peer that was away is asked again within seconds, not hours.
            "federation": {
                "destination_min_retry_interval": "1s",
                "destination_retry_multiplier": 1,
                "destination_max_retry_interval": "2s",
            },
            "database": {"name": "sqlite3", "args": {"database": str(self.folder / "homeserver.db")}},
            "media_store_path": str(self.folder / "media"),
            "signing_key_path": str(self.folder / "signing.key"),
            "log_config": str(self.folder / "log.yaml"),
            "macaroon_secret_key": secrets.token_hex(16),
            "form_secret": secrets.token_hex(16),
            "registration_shared_secret": secrets.token_hex(16),
            "enable_registration": True,
            "enable_registration_without_verification": True,
            "bcrypt_rounds": 4,
            "allow_public_rooms_over_federation": True,
            "enable_authenticated_media": True,
            "rc_message": FREELY,
            "rc_registration": FREELY,
            "rc_login": {"address": FREELY, "account": FREELY, "failed_attempts": FREELY},
            "rc_joins": {"local": FREELY, "remote": FREELY},
            "rc_joins_per_room": FREELY,
            "rc_invites": {"per_room": FREELY, "per_user": FREELY, "per_issuer": FREELY},
            "rc_key_requests": FREELY,
            "rc_room_creation": FREELY,
            "rc_federation": {"sleep_limit": 100_000, "reject_limit": 100_000, "concurrent": 100},
        }

    def _logging(self) -> dict[str, Any]:
        file = {"class": "logging.FileHandler", "formatter": "plain", "filename": str(self.log)}
        return {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {"plain": {"format": "%(asctime)s %(name)s %(levelname)s %(message)s"}},
            "handlers": {"file": file},
            "root": {"level": "INFO", "handlers": ["file"]},
        }

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self.link.__exit__(kind, error, trace)

    def start(self) -> None:
        """Serve; returns when clients can come in."""
        assert self._process is None
        command = [str(PYTHON), "-m", "synapse.app.homeserver", "-c", str(self._config)]
        with (self.folder / "output.txt").open("ab") as output:
            self._process = subprocess.Popen(command, stdout=output, stderr=output, cwd=self.folder)
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                Api(self.base_url).ask("GET", "/_matrix/client/versions")
            except (urllib.error.URLError, ConnectionError):
                said = (self.folder / "output.txt").read_text()[-4000:]
                assert self._process.poll() is None, f"Synapse ended:\n{said}"
                assert time.monotonic() < deadline, f"Synapse does not answer:\n{said}"
                time.sleep(0.1)  # there is no other way to learn that another program listens
            else:
                return

    def stop(self) -> None:
        """Stop it in order."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def kill9(self) -> None:
        """Kill it without warning."""
        assert self._process
        self._process.kill()
        self._process.wait()
        self._process = None

    def restart(self) -> None:
        """Stop it in order and start it again on the same data and address."""
        self.stop()
        self.start()
