"""The port through which services below federation reach other servers: the functions that `context.Remote` names."""

from federation.directory import resolve_alias

__all__ = ["resolve_alias"]
