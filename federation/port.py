"""The port through which services below federation reach other servers: the functions that `context.Remote` names."""

from federation.directory import resolve_alias
from federation.keys_of_users import claim_keys, device_list, query_keys

__all__ = ["claim_keys", "device_list", "query_keys", "resolve_alias"]
