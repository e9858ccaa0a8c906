"""What a value in a configuration file may be: how it is read, how it is described, how it is written.

A kind turns the raw TOML value into the value that the program uses, or raises ``Unfit`` with a sentence that
says what was wanted and what was found. Kinds are immutable and shared between fields.
"""

from __future__ import annotations

import difflib
import ipaddress
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from config.problems import Fault, KeyPath

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Unfit(Exception):
    """The raw value is not what the key takes; the text says why."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One file being read: where relative paths start, the environment, the lines of its keys, the faults so far."""

    root: type
    directory: Path
    environ: Mapping[str, str]
    lines: Mapping[KeyPath, int]
    faults: list[Fault] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Spot:
    """A place in the document that is being read."""

    reading: Reading
    path: KeyPath = ()

    def child(self, step: str | int) -> Spot:
        """The spot of a key or an element below this one."""
        return Spot(self.reading, (*self.path, step))

    def fault(self, message: str) -> None:
        """Record a mistake at this spot."""
        self.reading.faults.append(Fault(self.path, message))


def line_of(path: KeyPath, lines: Mapping[KeyPath, int]) -> int:
    """The line of a path; for one that is not in the file, that of what encloses it (1 for the document)."""
    while path and path not in lines:
        path = path[:-1]
    return lines.get(path, 1)


@dataclass(frozen=True, slots=True)
class Duration:
    """A length of time. The file says ``90d``; the program asks for ``.ms`` or ``.seconds``."""

    ms: int

    @property
    def seconds(self) -> float:
        """The length in seconds."""
        return self.ms / 1000

    def __rmul__(self, times: int) -> Duration:
        return Duration(times * self.ms)


@dataclass(frozen=True, slots=True)
class Secret:
    """Something that does not stand in the configuration: a file to read it from, or the text from the environment.

    ``config.load.read_secret`` gives its text. The text never shows in a ``repr``.
    """

    file: Path | None = None
    text: str | None = field(default=None, repr=False)


class Kind:
    """A kind of value. Subclasses say what they want and how they read and write it."""

    key_suffix = ""
    stand_in: Any = ""  # takes the place of a faulty required value, so that the other checks can run

    @property
    def wanted(self) -> str:
        """A noun phrase: what the key takes."""
        raise NotImplementedError

    def read(self, raw: Any, spot: Spot) -> Any:
        """The value for a raw TOML value.

        Raises:
            Unfit: it is not what the key takes.
        """
        raise NotImplementedError

    def absent(self, default: Any, spot: Spot) -> Any:
        """The value when the key is not in the file."""
        return default

    def write(self, value: Any) -> str:
        """The value as TOML."""
        raise NotImplementedError

    def unfit(self, raw: Any, hint: str = "") -> Unfit:
        """The complaint that ``raw`` is not what was wanted."""
        return Unfit(f"wanted {self.wanted}, found {found(raw)}{'; ' + hint if hint else ''}")


def found(raw: Any) -> str:
    """A raw TOML value in words, for a complaint."""
    if isinstance(raw, bool):
        return "true" if raw else "false"
    if isinstance(raw, int | float):
        text = format(raw, "g") if isinstance(raw, float) else str(raw) if abs(raw) < 10**20 else "a huge one"
        return f"the number {text}"
    if isinstance(raw, str):
        return quoted(raw if len(raw) <= 60 else raw[:57] + "...")
    if isinstance(raw, list):
        return "a list" if raw else "an empty list"
    if isinstance(raw, dict):
        return "a table"
    return f"the date or time {raw}"


def quoted(text: str) -> str:
    """A TOML basic string."""
    escapes = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
    return '"' + "".join(escapes.get(c, c if c.isprintable() else f"\\U{ord(c):08x}") for c in text) + '"'


def nearest(word: str, known: list[str]) -> str:
    """What was probably meant, as the end of a sentence; "" when nothing known is near."""
    same = [name for name in known if name.lower() == word.lower()]
    near = same or difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"did you mean {quoted(near[0])}?" if near else ""


@dataclass(frozen=True)
class Text(Kind):
    """A string that matches a pattern, or that a function accepts; ``normal`` gives its usual form."""

    noun: str = "a text"
    pattern: str = r"(?s).+"
    normal: Callable[[str], str] = str
    accepts: Callable[[str], bool] = field(default=lambda text: True)
    hint: Callable[[str], str] = field(default=lambda text: "")

    @property
    def wanted(self) -> str:
        return self.noun

    def read(self, raw: Any, spot: Spot) -> str:
        if not isinstance(raw, str):
            raise self.unfit(raw)
        text = self.normal(raw)
        if not re.fullmatch(self.pattern, text) or not self.accepts(text):
            raise self.unfit(raw, self.hint(raw))
        return text

    def write(self, value: Any) -> str:
        return quoted(value)


@dataclass(frozen=True)
class Flag(Kind):
    """true or false."""

    stand_in = False

    @property
    def wanted(self) -> str:
        return "true or false"

    def read(self, raw: Any, spot: Spot) -> bool:
        if not isinstance(raw, bool):
            raise self.unfit(raw, "write it without quotes" if raw in ("true", "false") else "")
        return raw

    def write(self, value: Any) -> str:
        return "true" if value else "false"


@dataclass(frozen=True)
class Integer(Kind):
    """A whole number between two bounds, both included."""

    low: int = 0
    high: int = 2**53 - 1
    stand_in = 0

    @property
    def wanted(self) -> str:
        if self.low == self.high:
            return f"the number {self.low}"
        if self.high == 2**53 - 1:
            return f"a whole number, {self.low} or more"
        return f"a whole number from {self.low} to {self.high}"

    def read(self, raw: Any, spot: Spot) -> int:
        if isinstance(raw, bool) or not isinstance(raw, int) or not self.low <= raw <= self.high:
            numeric = isinstance(raw, str) and raw.strip().isdecimal()
            raise self.unfit(raw, "write it without quotes" if numeric else "")
        return raw

    def write(self, value: Any) -> str:
        return str(value)


@dataclass(frozen=True)
class Rate(Kind):
    """A number above zero, whole or not."""

    stand_in = 0.0

    @property
    def wanted(self) -> str:
        return "a number above 0"

    def read(self, raw: Any, spot: Spot) -> float:
        if isinstance(raw, bool) or not isinstance(raw, int | float) or not 0 < raw < 10**9:
            raise self.unfit(raw)
        return float(raw)

    def write(self, value: Any) -> str:
        return format(value, "g")


@dataclass(frozen=True)
class Choice(Kind):
    """One of a few words."""

    words: tuple[str, ...]

    @property
    def wanted(self) -> str:
        words = [quoted(word) for word in self.words]
        return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"

    def read(self, raw: Any, spot: Spot) -> str:
        if not isinstance(raw, str) or raw not in self.words:
            raise self.unfit(raw, nearest(raw, list(self.words)) if isinstance(raw, str) else "")
        return raw

    def write(self, value: Any) -> str:
        return quoted(value)


_SIZES = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
_TIMES = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
_MEASURE = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([A-Za-z]+)")


def _measure(text: str, units: Mapping[str, int]) -> int | None:
    """``"1.5 GiB"`` as a whole number of the smallest unit; None when it is not one."""
    parts = _MEASURE.fullmatch(text.strip())
    unit = units.get(parts[2]) if parts else None
    if parts is None or unit is None or len(parts[1]) > 20:
        return None
    amount = Decimal(parts[1]) * unit
    return int(amount) if amount == int(amount) else None


def _in_units(amount: int, units: Mapping[str, int], gap: str) -> str:
    """The amount in the biggest unit that divides it."""
    fitting = [(size, name) for name, size in units.items() if amount and amount % size == 0]
    size, name = max(fitting, default=(1, min(units, key=lambda unit: units[unit])))
    return f"{amount // size}{gap}{name}"


@dataclass(frozen=True)
class Size(Kind):
    """A number of bytes: ``"100 MiB"``, or a bare number."""

    low: int = 1
    stand_in = 1

    @property
    def wanted(self) -> str:
        least = f" of at least {_in_units(self.low, _SIZES, ' ')}" if self.low > 1 else ""
        return f'a size{least} such as "100 MiB"'

    def read(self, raw: Any, spot: Spot) -> int:
        size = _measure(raw, _SIZES) if isinstance(raw, str) else raw
        if isinstance(size, bool) or not isinstance(size, int) or not self.low <= size < 2**63:
            raise self.unfit(raw, self.hint(raw))
        return size

    @staticmethod
    def hint(raw: Any) -> str:
        parts = _MEASURE.fullmatch(raw.strip()) if isinstance(raw, str) else None
        if parts is None or parts[2] in _SIZES:
            return ""
        return f"the units are {', '.join(_SIZES)}"

    def write(self, value: Any) -> str:
        return quoted(_in_units(value, _SIZES, " "))


@dataclass(frozen=True)
class Span(Kind):
    """A length of time: ``"90d"``; with ``never``, also that word, which reads as None."""

    never: bool = False
    zero: bool = False
    stand_in = Duration(1)

    @property
    def wanted(self) -> str:
        return f'a duration such as "90d" or "1h"{", or " + quoted("never") if self.never else ""}'

    def read(self, raw: Any, spot: Spot) -> Duration | None:
        if self.never and raw == "never":
            return None
        ms = _measure(raw, _TIMES) if isinstance(raw, str) else None
        if ms is None or ms >= 2**53 or (ms == 0 and not self.zero):
            raise self.unfit(raw, self.hint(raw))
        return Duration(ms)

    @staticmethod
    def hint(raw: Any) -> str:
        if isinstance(raw, int | float) and not isinstance(raw, bool):
            return f"the unit is missing; {', '.join(_TIMES)} are possible"
        parts = _MEASURE.fullmatch(raw.strip()) if isinstance(raw, str) else None
        return f"the units are {', '.join(_TIMES)}" if parts is not None and parts[2] not in _TIMES else ""

    def write(self, value: Any) -> str:
        return quoted("never" if value is None else _in_units(value.ms, _TIMES, ""))


@dataclass(frozen=True)
class FilePath(Kind):
    """A path; a relative one starts from the directory of the configuration file."""

    stand_in = Path()

    @property
    def wanted(self) -> str:
        return "a path"

    def read(self, raw: Any, spot: Spot) -> Path:
        if not isinstance(raw, str) or not raw or "\0" in raw:
            raise self.unfit(raw)
        return spot.reading.directory / raw

    def absent(self, default: Any, spot: Spot) -> Path | None:
        return None if default is None else spot.reading.directory / default

    def write(self, value: Any) -> str:
        return quoted(str(value))


@dataclass(frozen=True)
class SecretFile(Kind):
    """A path to a file that holds a secret, or an environment variable that holds the secret itself and wins."""

    variable: str
    key_suffix: str = "_file"
    stand_in = Secret()

    @property
    def wanted(self) -> str:
        return "the path of a file that holds it"

    def read(self, raw: Any, spot: Spot) -> Secret:
        file = FilePath().read(raw, spot)
        return self.from_environment(spot) or Secret(file=file)

    def absent(self, default: Any, spot: Spot) -> Secret | None:
        if isinstance(default, Secret) and default.file is not None:
            default = Secret(file=spot.reading.directory / default.file)
        return self.from_environment(spot) or default

    def from_environment(self, spot: Spot) -> Secret | None:
        text = spot.reading.environ.get(self.variable)
        return Secret(text=text) if text else None

    def write(self, value: Any) -> str:
        return quoted(str(value.file))


@dataclass(frozen=True)
class Address(Kind):
    """An IP address, v4 or v6."""

    stand_in = "127.0.0.1"

    @property
    def wanted(self) -> str:
        return "an IP address"

    def read(self, raw: Any, spot: Spot) -> str:
        try:
            if isinstance(raw, str):
                return str(ipaddress.ip_address(raw))
        except ValueError:
            pass
        raise self.unfit(raw, 'write "127.0.0.1" or "::1"' if raw == "localhost" else "")

    def write(self, value: Any) -> str:
        return quoted(value)


@dataclass(frozen=True)
class Range(Kind):
    """A range of IP addresses in CIDR form, or one address."""

    @property
    def wanted(self) -> str:
        return 'a range of IP addresses such as "10.0.0.0/8"'

    def read(self, raw: Any, spot: Spot) -> Network:
        try:
            if isinstance(raw, str):
                return ipaddress.ip_network(raw)
        except ValueError as error:
            raise self.unfit(raw, "" if "does not appear" in str(error) else str(error)) from None
        raise self.unfit(raw)

    def write(self, value: Any) -> str:
        return quoted(str(value))


def is_web_address(text: str) -> bool:
    """Whether this is an absolute http or https URL without query, fragment or credentials."""
    try:
        url = urlsplit(text)
        usual = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
    except ValueError:
        return False
    return (
        usual
        and not (url.query or url.fragment or url.username or url.password)
        and text.isprintable()
        and " " not in text
    )


def is_json(text: str) -> bool:
    """Whether this is JSON."""
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


@dataclass(frozen=True)
class ListOf(Kind):
    """A list of one kind, each element once; read as a tuple in the file's order, stand-ins at faulty places."""

    of: Kind
    least: int = 0
    stand_in = ()

    @property
    def wanted(self) -> str:
        return f"a list, each {self.of.wanted}"

    def read(self, raw: Any, spot: Spot) -> tuple[Any, ...]:
        if not isinstance(raw, list):
            raise self.unfit(raw, "put it in [ ]" if isinstance(raw, str) else "")
        if len(raw) < self.least:
            raise self.unfit(raw)
        values: list[Any] = []
        for index, element in enumerate(raw):
            values.append(self.element(element, spot.child(index), values))
        return tuple(values)

    def element(self, raw: Any, spot: Spot, before: list[Any]) -> Any:
        """One element's value; ``before`` holds those of the elements before it."""
        try:
            value = self.of.read(raw, spot)
        except Unfit as fault:
            spot.fault(str(fault))
            return self.of.stand_in
        if value in before:
            spot.fault(f"{found(raw)} stands in this list twice")
        return value

    def write(self, value: Any) -> str:
        return f"[{', '.join(self.of.write(element) for element in value)}]"
