"""domicile.toml: what is read from it, and for each kind of mistake the line, the key and the words."""

import dataclasses
import ipaddress
from pathlib import Path

import pytest

from config.kinds import Duration, Secret
from config.load import load_settings, read_secret, read_tokens, settings_from_text
from config.problems import Faults, Problem
from config.sections.rate_limits import RateLimit
from config.sections.rooms import CLEAR_EVENT_TYPES
from config.sections.serving import Listener
from config.settings import Settings
from tests.config.support import GOLDEN, settings_faults

OK = 'server_name = "example.org"\n'
OLD_KEY = f'{{ id = "ed25519:a", key = "{"A" * 43}", expired_ts = 5 }}'


def test_the_golden_example() -> None:
    settings = load_settings(GOLDEN / "domicile.toml", environ={})
    assert settings.server_name == "example.org"
    assert settings.base_url == "https://matrix.example.org"
    assert settings.data_dir == GOLDEN / "data"
    assert settings.residency == GOLDEN / "residency.toml"
    assert settings.signing_key == Secret(file=GOLDEN / "signing.key")
    assert settings.operator.contact == "mailto:abuse@example.org"
    assert [(listener.address, listener.port) for listener in settings.listeners] == [
        ("127.0.0.1", 8008),
        ("127.0.0.1", 8448),
    ]
    assert settings.listeners[1].resources == ("federation",)
    assert settings.listeners[1].tls is not None
    assert settings.listeners[1].tls.certificate == GOLDEN / "tls.crt"
    assert settings.registration.mode == "closed"
    assert settings.registration.shared_secret == Secret(file=GOLDEN / "registration.secret")
    assert settings.federation.ca_file == GOLDEN / "ca.pem"
    assert settings.media.max_upload == 104_857_600
    assert (settings.log.level, settings.log.format) == ("info", "text")


def test_the_least_file_has_all_defaults_with_paths_beside_it(tmp_path: Path) -> None:
    file = tmp_path / "domicile.toml"
    file.write_text(OK)
    settings = load_settings(file, environ={})
    bare = Settings(server_name="example.org")
    assert settings == dataclasses.replace(
        bare,
        data_dir=tmp_path / "data",
        residency=tmp_path / "residency.toml",
        signing_key=Secret(file=tmp_path / "signing.key"),
    )
    assert settings.listeners == (Listener(),)
    assert settings.base_url == "https://example.org"
    assert settings.encryption.allow_in_clear == CLEAR_EVENT_TYPES


def test_values_of_every_table(tmp_path: Path) -> None:
    settings = settings_from_text(
        OK + "[rate_limits]\nmessage = { burst = 5 }\n[rate_limits.login]\nper_second = 1\nburst = 2\n"
        '[sessions]\naccess_token_lifetime = "never"\n'
        '[federation]\nallow_addresses = ["10.0.0.0/8", "::1"]\n'
        '[encryption]\nallow_in_clear = ["m.reaction"]\n'
        '[[media.thumbnails]]\nwidth = 8\nheight = 9\nmethod = "crop"\n'
    )
    assert settings.rate_limits.message == RateLimit(per_second=10, burst=5)  # what is not said stays
    assert settings.rate_limits.login == RateLimit(per_second=1, burst=2)
    assert settings.rate_limits.join == Settings(server_name="x").rate_limits.join
    assert settings.sessions.access_token_lifetime is None
    assert settings.sessions.transaction_id_lifetime == Duration(86_400_000)
    assert settings.federation.allow_addresses == (ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("::1"))
    assert settings.encryption.allow_in_clear == ("m.reaction",)
    assert [(t.width, t.height, t.method) for t in settings.media.thumbnails] == [(8, 9, "crop")]


FAULTS = [
    ("", (1, "server_name", 'is missing; wanted a server name such as "example.org"')),
    ("server_name = 5\n", (1, "server_name", 'wanted a server name such as "example.org", found the number 5')),
    (OK + "sever = 1\n", (2, "sever", 'unknown key; did you mean "server_name"?')),
    (OK + "[log]\nlevl = 1\n", (3, "log.levl", 'unknown key; did you mean "level"?')),
    (OK + "[log]\nqqq = 1\n", (3, "log.qqq", "unknown key; this table takes level, format")),
    (
        OK + '[log]\nshared_secret_file = "x"\n',
        (3, "log.shared_secret_file", "unknown key; it belongs in [registration]"),
    ),
    (OK + '[log]\ndata_dir = "x"\n', (3, "log.data_dir", "unknown key; it belongs in the top of the file")),
    (
        OK + '[log]\nlevel = "inf"\n',
        (3, "log.level", 'wanted "debug", "info", "warning" or "error", found "inf"; did you mean "info"?'),
    ),
    (OK + 'log = "info"\n', (2, "log", 'wanted a table, found "info"')),
    (
        OK + "\n[federation]\nenabled = 1979-05-27\n",
        (4, "federation.enabled", "wanted true or false, found the date or time 1979-05-27"),
    ),
    (
        OK + 'federation = { enabled = true,  key_validity = "1y" }\n',
        (
            2,
            "federation.key_validity",
            'wanted a duration such as "90d" or "1h", found "1y"; the units are ms, s, m, h, d, w',
        ),
    ),
    (
        OK + f"[federation]\nold_keys = [{OLD_KEY}, {OLD_KEY.replace(' 5 ', ' 6 ')}]\n",
        (3, "federation.old_keys[1].id", "ed25519:a stands in this list twice"),
    ),
    (
        OK + f"[federation]\nold_keys = [{OLD_KEY.replace('AAAA', 'AAA', 1)}]\n",
        (3, "federation.old_keys[0].key", f'wanted a public key in unpadded base64, found "{"A" * 42}"'),
    ),
    (
        OK + '[federation]\nnotaries = ["n.example", "example.org"]\n',
        (3, "federation.notaries[1]", "is this server itself"),
    ),
    (
        OK + '[federation]\nallow_addresses = [\n  "10.0.0.0/8",\n\n  "10.0.0.0/99",\n]\n',
        (
            6,
            "federation.allow_addresses[1]",
            'wanted a range of IP addresses such as "10.0.0.0/8", found "10.0.0.0/99"',
        ),
    ),
    (
        OK + "[listeners]\nport = 1\n",
        (2, "listeners", "wanted a list of tables, found a table; write [[ ]] around its name"),
    ),
    (OK + "listeners = [1]\n", (2, "listeners[0]", "wanted a table, found the number 1")),
    (OK + "listeners = []\n", (2, "listeners", "wanted at least one listener")),
    (
        OK + "[[listeners]]\n[[listeners]]\nport = 70000\n",
        (4, "listeners[1].port", "wanted a whole number from 0 to 65535, found the number 70000"),
    ),
    (
        OK + "[[listeners]]\nport = 1\n[[listeners]]\nport = 1\n",
        (5, "listeners[1].port", "127.0.0.1 port 1 is taken by listeners[0]"),
    ),
    (OK + '[[listeners]]\n\ntls = { certificate = "x" }\n', (4, "listeners[0].tls.key", "is missing; wanted a path")),
    (
        OK + '[[listeners]]\nresources = ["client", "clients"]\n',
        (
            3,
            "listeners[0].resources[1]",
            'wanted "client", "federation", "console" or "metrics", found "clients"; did you mean "client"?',
        ),
    ),
    (
        OK + '[[media.thumbnails]]\nwidth = 1\nmethod = "crop"\n',
        (2, "media.thumbnails[0].height", "is missing; wanted a whole number from 1 to 4096"),
    ),
    (
        OK + "[rate_limits.join]\nburst = 0\n",
        (3, "rate_limits.join.burst", "wanted a whole number from 1 to 1000000, found the number 0"),
    ),
    (
        OK + "[passwords]\nparallelism = 4\nmemory_cost = 16\n",
        (4, "passwords.memory_cost", "wanted at least 32: 8 KiB for each lane of parallelism"),
    ),
    (
        OK + '[registration]\nshared_secret = "hunter2"\n',
        (
            3,
            "registration.shared_secret",
            "a secret does not stand in this file: name a file with shared_secret_file, "
            "or set DOMICILE_REGISTRATION_SHARED_SECRET",
        ),
    ),
    (
        OK + '[encryption]\nallow_in_clear = ["m.reaction", "m.sticker"]\n',
        (
            3,
            "encryption.allow_in_clear[1]",
            "wanted "
            + ", ".join(f'"{name}"' for name in CLEAR_EVENT_TYPES[:-1])
            + f' or "{CLEAR_EVENT_TYPES[-1]}", found "m.sticker"',
        ),
    ),
    (
        OK + 'conformance_mode = true\n[[listeners]]\n[[listeners]]\naddress = "0.0.0.0"\nport = 1\n',
        (
            5,
            "listeners[1].address",
            "conformance_mode accepts plaintext, so it listens on loopback addresses only, "
            'such as "127.0.0.1"; found "0.0.0.0"',
        ),
    ),
]


@pytest.mark.parametrize(("text", "fault"), FAULTS)
def test_fault(tmp_path: Path, text: str, fault: tuple[int, str, str]) -> None:
    assert settings_faults(tmp_path, text) == [fault]


SYNTAX = [
    ("a = [1,\n2\n", 2, "is not TOML: unclosed array"),
    ("a = 1\na = 2\n", 2, "is not TOML: cannot overwrite a value, at column 6"),
    (OK + "b = \n", 2, "is not TOML: invalid value, at column 5"),
    ("\n\nx = {a = 1\n}\n", 3, "is not TOML: unclosed inline table, at column 11"),
    ("a = " + "9" * 5000, 0, "is not a usable TOML file: "),
    ("a = " + "[" * 5000, 0, "is not a usable TOML file: its brackets are nested too deep"),
]


@pytest.mark.parametrize(("text", "line", "message"), SYNTAX)
def test_syntax(tmp_path: Path, text: str, line: int, message: str) -> None:
    [(found_line, key, found)] = settings_faults(tmp_path, text)
    assert (found_line, key) == (line, "")
    assert found.startswith(message)


def test_a_file_that_is_not_utf8(tmp_path: Path) -> None:
    file = tmp_path / "domicile.toml"
    file.write_bytes(b"a = 1\n# caf\xe9\n")
    with pytest.raises(Faults) as faults:
        load_settings(file, environ={})
    assert str(faults.value) == f"{file}:2: is not UTF-8: byte 0xe9"


def test_a_byte_order_mark_is_no_fault(tmp_path: Path) -> None:
    file = tmp_path / "domicile.toml"
    file.write_bytes(b"\xef\xbb\xbf" + OK.encode())
    assert load_settings(file, environ={}).server_name == "example.org"


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(Faults) as faults:
        load_settings(tmp_path / "none.toml", environ={})
    assert faults.value.problems == (
        Problem(f"{tmp_path}/none.toml", 0, "", "cannot be read: No such file or directory"),
    )
    assert str(faults.value) == f"{tmp_path}/none.toml: cannot be read: No such file or directory"


def test_all_faults_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = 'server_nam = "a"\nconformance_mode = true\n[log]\nformat = 5\n'
    text += '[[listeners]]\naddress = "10.0.0.1"\nport = "x"\n'
    assert [(line, key) for line, key, _ in settings_faults(tmp_path, text)] == [
        (1, "server_nam"),
        (1, "server_name"),
        (4, "log.format"),
        (6, "listeners[0].address"),
        (7, "listeners[0].port"),
    ]


def test_the_text_of_faults_is_one_line_each() -> None:
    with pytest.raises(Faults) as faults:
        settings_from_text("x = 1\ny = 2\n", "d.toml")
    lines = str(faults.value).split("\n")
    assert [line.partition(": ")[0] for line in lines] == ["d.toml:1", "d.toml:1", "d.toml:2"]


@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.0.1", "::1", "0:0:0:0:0:0:0:1"])
def test_conformance_mode_on_loopback(tmp_path: Path, address: str) -> None:
    text = f'{OK}conformance_mode = true\n[[listeners]]\naddress = "{address}"\n'
    assert settings_faults(tmp_path, text) == []


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "10.0.0.1", "128.0.0.1", "::ffff:10.0.0.1"])
def test_conformance_mode_anywhere_else(tmp_path: Path, address: str) -> None:
    text = f'{OK}conformance_mode = true\n[[listeners]]\naddress = "{address}"\n'
    assert [key for _, key, _ in settings_faults(tmp_path, text)] == ["listeners[0].address"]
    assert settings_faults(tmp_path, text.replace("true", "false")) == []


def test_secrets_from_files_and_environment(tmp_path: Path) -> None:
    file = tmp_path / "domicile.toml"
    file.write_text(OK + '[registration]\nshared_secret_file = "r.secret"\ntokens_file = "tokens"\n')
    (tmp_path / "r.secret").write_text("  from the file \n")
    (tmp_path / "tokens").write_text("# mine\nfr-1  fr-2 # two\n\nir-1\nfr-1\n")
    registration = load_settings(file, environ={}).registration
    assert registration.shared_secret is not None
    assert registration.tokens is not None
    assert read_secret(registration.shared_secret) == "from the file"
    assert read_tokens(registration.tokens) == ("fr-1", "fr-2", "ir-1")
    environ = {"DOMICILE_REGISTRATION_SHARED_SECRET": "from the environment"}
    registration = load_settings(file, environ=environ).registration
    assert registration.shared_secret is not None
    assert read_secret(registration.shared_secret) == "from the environment"


def test_a_secret_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(Faults, match="none: cannot be read"):
        read_secret(Secret(file=tmp_path / "none"))
    (tmp_path / "empty").write_text(" \n")
    with pytest.raises(Faults, match="empty: is empty"):
        read_secret(Secret(file=tmp_path / "empty"))


def test_the_process_environment_is_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "domicile.toml").write_text(OK)
    monkeypatch.setenv("DOMICILE_SIGNING_KEY", "ed25519 a abc")
    assert load_settings(tmp_path / "domicile.toml").signing_key == Secret(text="ed25519 a abc")
