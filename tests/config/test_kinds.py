"""Values of the configuration: what is read, what is refused and in which words, and that writing undoes reading."""

import tomllib
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.forms import SERVER_NAME, WEB_ADDRESS
from config.kinds import (
    Address,
    Duration,
    FilePath,
    Flag,
    Integer,
    Kind,
    ListOf,
    Range,
    Rate,
    Reading,
    Secret,
    SecretFile,
    Size,
    Span,
    Spot,
    Unfit,
    nearest,
    quoted,
)
from config.residency import Residency
from config.sections.serving import CONTACT
from config.settings import Settings
from config.tables import TableMap, TableOf, TablesOf, shape


def spot(**environ: str) -> Spot:
    return Spot(Reading(Settings, Path("/etc/domicile"), environ, {}), ("key",))


def read(kind: Kind, raw: Any, **environ: str) -> Any:
    return kind.read(raw, spot(**environ))


@pytest.mark.parametrize(
    ("raw", "size"),
    [("100 MiB", 104857600), ("1KiB", 1024), ("1.5 GiB", 1610612736), ("5 MB", 5_000_000), ("7 B", 7), (12, 12)],
)
def test_sizes(raw: Any, size: int) -> None:
    assert read(Size(), raw) == size


@pytest.mark.parametrize(
    ("raw", "complaint"),
    [
        ("100", 'wanted a size such as "100 MiB", found "100"'),
        ("100 mib", 'found "100 mib"; the units are B, kB, MB, GB, KiB, MiB, GiB, TiB'),
        ("0 B", 'found "0 B"'),
        ("-5 MiB", 'found "-5 MiB"'),
        ("0.3 B", 'found "0.3 B"'),
        (True, "found true"),
        (-1, "found the number -1"),
        (1.5, "found the number 1.5"),
        ("9" * 30 + " TiB", "wanted a size"),
        ([], "found an empty list"),
        ({"a": 1}, "found a table"),
    ],
)
def test_sizes_refused(raw: Any, complaint: str) -> None:
    with pytest.raises(Unfit) as refused:
        read(Size(), raw)
    assert complaint in str(refused.value)


@pytest.mark.parametrize(
    ("raw", "ms"), [("90d", 7_776_000_000), ("1h", 3_600_000), ("1.5s", 1500), ("250 ms", 250), ("2w", 1_209_600_000)]
)
def test_durations(raw: str, ms: int) -> None:
    assert read(Span(), raw) == Duration(ms)
    assert Duration(ms).seconds == ms / 1000


@pytest.mark.parametrize(
    ("raw", "complaint"),
    [
        (
            90,
            'wanted a duration such as "90d" or "1h", found the number 90; the unit is missing; ms, s, m, h, d, w are',
        ),
        ("90 days", 'found "90 days"; the units are ms, s, m, h, d, w'),
        ("never", 'found "never"'),
        ("0s", 'found "0s"'),
        (False, "found false"),
    ],
)
def test_durations_refused(raw: Any, complaint: str) -> None:
    with pytest.raises(Unfit) as refused:
        read(Span(), raw)
    assert complaint in str(refused.value)


def test_never_where_it_is_possible() -> None:
    assert read(Span(never=True), "never") is None
    with pytest.raises(Unfit, match='or "never"'):
        read(Span(never=True), "always")


@given(st.integers(1, 2**62))
def test_sizes_written_are_read_back(size: int) -> None:
    assert read(Size(), tomllib.loads(f"x = {Size().write(size)}")["x"]) == size


@given(st.integers(1, 2**52))
def test_durations_written_are_read_back(ms: int) -> None:
    assert read(Span(), tomllib.loads(f"x = {Span().write(Duration(ms))}")["x"]) == Duration(ms)


@given(st.decimals(min_value=Decimal("0.001"), max_value=10**9, places=3))
def test_durations_are_exact_or_refused(amount: Decimal) -> None:
    assert read(Span(), f"{amount:f}s") == Duration(int(amount * 1000))


@given(st.text(st.characters(codec="utf-8")))
def test_quoted_is_toml(text: str) -> None:
    assert tomllib.loads(f"x = {quoted(text)}")["x"] == text


@pytest.mark.parametrize(
    ("kind", "raw", "complaint"),
    [
        (Integer(1, 5), "3", 'wanted a whole number from 1 to 5, found "3"; write it without quotes'),
        (Integer(1, 5), 6, "found the number 6"),
        (Integer(1, 5), True, "found true"),
        (Integer(1, 5), 2.0, "found the number 2"),
        (Integer(1), 10**40, "wanted a whole number, 1 or more, found the number a huge one"),
        (Flag(), "true", 'wanted true or false, found "true"; write it without quotes'),
        (Flag(), 1, "found the number 1"),
        (Rate(), 0, "wanted a number above 0, found the number 0"),
        (Rate(), float("inf"), "found the number inf"),
        (Rate(), float("nan"), "found the number nan"),
        (Address(), "localhost", 'wanted an IP address, found "localhost"; write "127.0.0.1" or "::1"'),
        (Range(), "10.0.0.1/8", "10.0.0.1/8 has host bits set"),
        (Range(), "ten", 'wanted a range of IP addresses such as "10.0.0.0/8", found "ten"'),
        (FilePath(), "", 'wanted a path, found ""'),
        (FilePath(), "a\0b", "wanted a path"),
        (ListOf(Flag()), "true", 'wanted a list, each true or false, found "true"; put it in [ ]'),
        (ListOf(Flag(), least=1), [], "found an empty list"),
        (WEB_ADDRESS, "matrix.example.org", 'it begins with "https://"'),
        (WEB_ADDRESS, "https://user:pw@example.org", "wanted a web address"),
        (WEB_ADDRESS, "https://example.org:99999", "wanted a web address"),
        (WEB_ADDRESS, "https://[::1", "wanted a web address"),
        (CONTACT, "abuse@example.org", 'write "mailto:" before an e-mail address'),
    ],
)
def test_refused(kind: Kind, raw: Any, complaint: str) -> None:
    with pytest.raises(Unfit) as refused:
        read(kind, raw)
    assert complaint in str(refused.value)


@pytest.mark.parametrize("name", ["example.org", "localhost:8448", "1.2.3.4", "[::1]:8448", "a-b.example"])
def test_server_names(name: str) -> None:
    assert read(SERVER_NAME, name) == name


@pytest.mark.parametrize(
    "name", ["", "exa mple.org", "https://a.org", "a..b", "-a.org", "a.org:port", "é.org", "a" * 231, "a.org\n"]
)
def test_server_names_refused(name: str) -> None:
    with pytest.raises(Unfit):
        read(SERVER_NAME, name)


def test_web_addresses_lose_their_last_slash() -> None:
    assert read(WEB_ADDRESS, "https://example.org/") == "https://example.org"


def test_paths_start_from_the_directory() -> None:
    assert read(FilePath(), "a/b") == Path("/etc/domicile/a/b")
    assert read(FilePath(), "/a") == Path("/a")


def test_a_list_names_the_place_of_each_fault() -> None:
    here = spot()
    assert ListOf(Integer(0, 9)).read([1, 10, 1, "2"], here) == (1, 0, 1, 0)
    assert [(fault.path, fault.message) for fault in here.reading.faults] == [
        (("key", 1), "wanted a whole number from 0 to 9, found the number 10"),
        (("key", 2), "the number 1 stands in this list twice"),
        (("key", 3), 'wanted a whole number from 0 to 9, found "2"; write it without quotes'),
    ]


def test_secrets_come_from_the_environment_first() -> None:
    kind = SecretFile("DOMICILE_X")
    assert read(kind, "x.secret") == Secret(file=Path("/etc/domicile/x.secret"))
    assert read(kind, "x.secret", DOMICILE_X="s3cret") == Secret(text="s3cret")
    assert kind.absent(None, spot(DOMICILE_X="s3cret")) == Secret(text="s3cret")
    assert kind.absent(None, spot()) is None
    assert "s3cret" not in repr(Secret(text="s3cret"))


def test_nearest() -> None:
    assert nearest("sever_name", ["server_name", "data_dir"]) == 'did you mean "server_name"?'
    assert nearest("fr", ["IR", "FR"]) == 'did you mean "FR"?'
    assert nearest("zzz", ["server_name"]) == ""


def defaults_of(table: type) -> list[tuple[str, Kind, Any]]:
    found = []
    for field in shape(table).fields.values():
        kind = field.setting.kind
        if isinstance(kind, TableOf | TablesOf | TableMap):
            found += defaults_of(kind.table)
        elif not field.required and field.default not in (None, ""):
            found.append((f"{table.__name__}.{field.attribute}", kind, field.default))
        if field.setting.example is not None and not isinstance(kind, TableOf):
            found.append((f"{table.__name__}.{field.attribute} example", kind, field.setting.example))
    return found


@pytest.mark.parametrize(("name", "kind", "value"), defaults_of(Settings) + defaults_of(Residency))
def test_defaults_and_examples_are_values_that_could_be_written(name: str, kind: Kind, value: Any) -> None:
    here = spot()
    raw = tomllib.loads(f"x = {kind.write(value)}")["x"]
    again = kind.read(raw, here)
    assert here.reading.faults == []
    assert kind.write(again).replace("/etc/domicile/", "") == kind.write(value)
