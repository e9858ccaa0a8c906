"""Who may make an account, and what they prove to own by e-mail or a text message."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from config.forms import HOST, HOUR
from config.kinds import (
    Choice,
    Duration,
    FilePath,
    Flag,
    Integer,
    ListOf,
    Secret,
    SecretFile,
    Span,
    Text,
    is_json,
    is_web_address,
)
from config.tables import Setting

MAILBOX = Text('an e-mail address such as "noreply@example.org"', r"[^@\s<>]{1,64}@[^@\s<>]{1,255}")
GATEWAY = Text(
    'a web address such as "https://sms.example.org/send?to={number}"',
    r"https?://[^/{}\s?#@]+(?:[/?][\x21-\x7e]*)?",
    accepts=lambda text: is_web_address(text.partition("?")[0].replace("{", "").replace("}", "")),
)
JSON_TEMPLATE = Text("JSON", accepts=is_json, hint=lambda text: "" if text else "leave it out for none")
HEADER = Text("the name of a header", r"[A-Za-z0-9-]{1,100}")
COUNTRY = Text('a country code such as "IR"', r"[A-Z]{2}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """Who may make an account. Where its data will rest is said in residency.toml."""

    mode: Annotated[
        Literal["open", "token", "closed"],
        Setting(
            Choice(("open", "token", "closed")),
            "`open`: everyone; `token`: who has a registration token; `closed`: only the operator makes accounts.",
        ),
    ] = "closed"
    guests: Annotated[
        bool, Setting(Flag(), "Whether anybody may look around as a guest: an account without name and password.")
    ] = False
    shared_secret: Annotated[
        Secret | None,
        Setting(
            SecretFile("DOMICILE_REGISTRATION_SHARED_SECRET"),
            "Secret of `/_synapse/admin/v1/register`, by which tools make accounts. The route is off without it.",
            Secret(file=Path("registration.secret")),
        ),
    ] = None
    tokens: Annotated[
        Secret | None,
        Setting(
            SecretFile("DOMICILE_REGISTRATION_TOKENS"),
            "Registration tokens that always hold, one a line; `#` begins a comment.",
            Secret(file=Path("registration.tokens")),
        ),
    ] = None
    verify: Annotated[
        tuple[Literal["email", "msisdn"], ...],
        Setting(
            ListOf(Choice(("email", "msisdn"))),
            "What everyone who registers must prove to own: an e-mail address, a phone number (`msisdn`). The tables "
            "`email` and `sms` say how that is asked. What is not named here may be given and need not be.",
            ("msisdn",),
        ),
    ] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Email:
    """The mail server through which e-mail addresses are verified; without it none is.

    It sees whom it writes to: choose it as you choose your nodes.
    """

    server: Annotated[str, Setting(HOST, "The SMTP server.", "mail.example.org")]
    sender: Annotated[str, Setting(MAILBOX, "Address that the messages come from.", "noreply@example.org")]
    port: Annotated[int, Setting(Integer(1, 65535), "Its port: usually 587, or 465 for `tls`.")] = 587
    security: Annotated[
        Literal["starttls", "tls", "none"],
        Setting(
            Choice(("starttls", "tls", "none")),
            "`starttls`: TLS is begun after the connection is made, and demanded; `tls`: from the first byte; `none`: "
            "in the clear, for a server on this machine.",
        ),
    ] = "starttls"
    ca_file: Annotated[
        Path | None,
        Setting(
            FilePath(), "PEM file of the authority of its certificate, if not one of the system's.", Path("ca.pem")
        ),
    ] = None
    user: Annotated[str | None, Setting(Text("a name"), "Name to log in with.", "domicile")] = None
    password: Annotated[
        Secret | None,
        Setting(SecretFile("DOMICILE_EMAIL_PASSWORD"), "Password to log in with.", Secret(file=Path("email.password"))),
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sms:
    """The HTTP gateway through which phone numbers are verified; without it none is.

    It sees whom it writes to: choose it as you choose your nodes. In `url` and `body`, `{number}` stands for the number
    with its `+`, `{digits}` for it without, `{text}` for the message.
    """

    url: Annotated[str, Setting(GATEWAY, "Where the gateway is asked.", "https://sms.example.org/v1/messages")]
    method: Annotated[Literal["POST", "PUT", "GET"], Setting(Choice(("POST", "PUT", "GET")), "How.")] = "POST"
    body: Annotated[
        str, Setting(JSON_TEMPLATE, "The JSON that is sent; the places are filled inside its strings. Not sent by GET.")
    ] = '{"to": "{number}", "text": "{text}"}'
    header: Annotated[str, Setting(HEADER, "Name of the header that holds the secret.")] = "Authorization"
    secret: Annotated[
        Secret | None,
        Setting(
            SecretFile("DOMICILE_SMS_SECRET"),
            "The whole value of that header, such as `Bearer abc`.",
            Secret(file=Path("sms.secret")),
        ),
    ] = None
    countries: Annotated[
        tuple[str, ...],
        Setting(
            ListOf(COUNTRY),
            "Countries whose numbers are accepted, all when none is named. Messages cost.",
            ("IR", "FR"),
        ),
    ] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """How somebody proves to own an e-mail address or a phone number: by a link or a code that is sent there."""

    lifetime: Annotated[
        Duration, Setting(Span(), "How long a code or link holds, and then how long the proof may be used.")
    ] = HOUR
    attempts: Annotated[int, Setting(Integer(1, 100), "Wrong codes after which the right one does not hold.")] = 5
    return_to: Annotated[
        tuple[str, ...],
        Setting(
            ListOf(HOST),
            "Hosts of web clients to which the page of a link may send people back. A client that names another is "
            "not followed.",
            ("app.example.org",),
        ),
    ] = ()
