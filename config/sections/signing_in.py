"""How people sign in, and how long that holds."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from config.forms import DAY, HOUR, MINUTE, PLACE
from config.kinds import Duration, Flag, Integer, ListOf, Secret, SecretFile, Span, Text, is_web_address
from config.tables import Setting

PROVIDER_ID = Text('an id such as "university"', r"[A-Za-z0-9._~-]{1,64}")
BRAND = Text('a brand such as "github"', r"[a-z0-9._-]{1,64}")
ISSUER = Text(
    'the address of an issuer such as "https://id.example.org"',
    r"https://.+",
    accepts=is_web_address,
    hint=lambda text: "" if text.startswith("https://") else 'it begins with "https://"',
)
CLAIM = Text('the name of a claim such as "preferred_username" or "address.country"', r"[\x21-\x7e]{1,200}")
SCOPE = Text('a scope such as "profile"', r"[\x21\x23-\x5b\x5d-\x7e]{1,200}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sessions:
    """How long logins and what belongs to them live."""

    access_token_lifetime: Annotated[
        Duration | None,
        Setting(Span(never=True), "Life of the access token of a client that can refresh it."),
    ] = HOUR
    refresh_token_lifetime: Annotated[
        Duration | None,
        Setting(Span(never=True), "Life of a refresh token that is not used; after it the user logs in again."),
    ] = None
    authentication_lifetime: Annotated[
        Duration, Setting(Span(), "How long a user may take for an interactive authentication, registration included.")
    ] = 15 * MINUTE
    login_token_lifetime: Annotated[
        Duration, Setting(Span(), "How long a token holds by which a client lets another one of its user log in.")
    ] = 2 * MINUTE
    transaction_id_lifetime: Annotated[
        Duration, Setting(Span(), "How long a repeated transaction id of a client is answered like the first time.")
    ] = DAY


@dataclass(frozen=True, slots=True, kw_only=True)
class Passwords:
    """Passwords and the cost of their Argon2id hash, in its library's terms. Low costs are for tests only."""

    minimum_length: Annotated[int, Setting(Integer(1, 512), "Characters that a new password needs.")] = 8
    time_cost: Annotated[int, Setting(Integer(1, 1000), "Passes over the memory.")] = 3
    memory_cost: Annotated[int, Setting(Integer(8, 2**24), "Memory of one hash, in KiB; at least 8 for each lane.")] = (
        65536
    )
    parallelism: Annotated[int, Setting(Integer(1, 255), "Lanes.")] = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class OAuth:
    """Signing in through a browser, by the OAuth 2.0 API: pages of the server ask for the password, not the client."""

    enabled: Annotated[
        bool, Setting(Flag(), "Whether clients may. Without it they are told to use the legacy API.")
    ] = True
    browser_lifetime: Annotated[
        Duration, Setting(Span(), "How long a browser stays signed in to the server's own pages.")
    ] = HOUR
    device_code_lifetime: Annotated[
        Duration, Setting(Span(), "How long a code holds that a device without a browser shows.")
    ] = 15 * MINUTE


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentityProvider:
    """A provider of identities (OpenID Connect) through which people sign in.

    At the provider, register the redirect URI `/_domicile/sso/callback` of this server.

    It learns who signs in here, and when. Where the data of new users rests is said by `jurisdiction` or
    `jurisdiction_claim`, else by the pin rules of residency.toml.
    """

    id: Annotated[str, Setting(PROVIDER_ID, "What tells it from the others. It must never change.", "university")]
    name: Annotated[str, Setting(Text("a name"), "What people read.", "Example University")]
    issuer: Annotated[str, Setting(ISSUER, "Its issuer, as it says it itself.", "https://id.example.org")]
    client_id: Annotated[str, Setting(Text("the id of a client"), "What it calls this server.", "domicile")]
    client_secret: Annotated[
        Secret | None,
        Setting(
            SecretFile("DOMICILE_IDENTITY_PROVIDER_SECRET"),
            "The secret that goes with it, if there is one.",
            Secret(file=Path("university.secret")),
        ),
    ] = None
    scopes: Annotated[tuple[str, ...], Setting(ListOf(SCOPE), "What is asked of it besides `openid`.")] = ("profile",)
    localpart_claim: Annotated[
        str, Setting(CLAIM, "What a new user's name is made from; if it cannot be or is taken, they are asked.")
    ] = "preferred_username"
    display_name_claim: Annotated[str, Setting(CLAIM, "What a new user's display name is.")] = "name"
    registers: Annotated[
        bool, Setting(Flag(), "Whether those get an account who have none, whatever the mode of registration.")
    ] = True
    jurisdiction: Annotated[str | None, Setting(PLACE, "Where the data of new users rests.", "FR")] = None
    jurisdiction_claim: Annotated[
        str | None,
        Setting(
            CLAIM,
            "A claim that names the jurisdiction by its code. Of whom it says nothing, `jurisdiction` holds; without "
            "that, they get no account.",
            "address.country",
        ),
    ] = None
    brand: Annotated[str | None, Setting(BRAND, "By which clients may know what picture to show.", "github")] = None
