"""The port through which services below federation reach other servers: the functions that `context.Remote` names."""

from federation.backfill import fetch_history, fetch_nearest
from federation.directory import resolve_alias
from federation.inviting import invite
from federation.joining import join
from federation.keys_of_users import claim_keys, device_list, query_keys
from federation.knocking import knock
from federation.leaving import leave
from federation.media import fetch_media
from federation.policy_servers import recommend
from federation.profiles import profile
from federation.public_rooms import public_rooms
from federation.spaces import hierarchy
from federation.third_party import exchange_invite

__all__ = [
    "claim_keys",
    "device_list",
    "exchange_invite",
    "fetch_history",
    "fetch_media",
    "fetch_nearest",
    "hierarchy",
    "invite",
    "join",
    "knock",
    "leave",
    "profile",
    "public_rooms",
    "query_keys",
    "recommend",
    "resolve_alias",
]
