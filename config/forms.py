"""Units, and the forms of values that several sections of the configuration ask for."""

import re

from config.kinds import Duration, Text, is_web_address

KiB, MiB = 2**10, 2**20
SECOND, MINUTE, HOUR, DAY = (Duration(ms) for ms in (1000, 60_000, 3_600_000, 86_400_000))

_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
SERVER_NAME_PATTERN = rf"(?=.{{1,230}}\Z)(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9A-Fa-f:.]{{2,45}}\])(?::[0-9]{{1,5}})?"
SERVER_NAME = Text('a server name such as "example.org"', SERVER_NAME_PATTERN)
"""spec: appendices/#server-name"""

WEB_ADDRESS = Text(
    'a web address such as "https://matrix.example.org"',
    normal=lambda text: text.rstrip("/"),
    accepts=is_web_address,
    hint=lambda text: "" if "://" in text else 'it begins with "https://"',
)
HOST = Text(
    'a host such as "mail.example.org"',
    rf"{_LABEL}(?:\.{_LABEL})*|[0-9A-Fa-f:.]{{2,45}}",
    normal=lambda text: text.lower(),
)
PLACE = Text("a name of residency.toml", r"[A-Za-z0-9_-]{1,64}")

UNKNOWN = "unknown"
"""The jurisdiction of servers that the policy does not know. Flows and peers can name it; nodes cannot be there."""
JURISDICTION_PATTERN = r"[A-Z]{2}|X-[A-Z0-9]+(?:-[A-Z0-9]+)*"


def _code_hint(code: str) -> str:
    if code == UNKNOWN:
        return f'"{UNKNOWN}" is reserved for servers that the policy does not know'
    upper = code.strip().upper()
    return f'did you mean "{upper}"?' if upper != code and re.fullmatch(JURISDICTION_PATTERN, upper) else ""


CODE = Text('an ISO 3166 code such as "FR", or "X-" and a name', JURISDICTION_PATTERN, hint=_code_hint)
