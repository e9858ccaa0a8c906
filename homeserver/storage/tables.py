"""Every table of a node's database: the data class of its rows, and the column that names their owner.

The one list that the write guard, the mover, the auditor and the eraser read. A table whose class never
flows, or whose rows have no business elsewhere, is *resident*: its owner column REFERENCES residents, so
that the database refuses a row of somebody pinned to another node. tests/storage/test_tables.py holds this
list against the schema.
"""

from __future__ import annotations

from dataclasses import dataclass

from config.residency import DataClass


@dataclass(frozen=True, slots=True)
class Table:
    """One table. ``owner`` is a column holding a user_nid; None: the rows belong to nobody in particular
    (``via`` then says through which column the owner is found, if there is one).
    """

    name: str
    data_class: DataClass | None
    owner: str | None
    resident: bool = False
    via: str | None = None


def _resident(name: str, data_class: DataClass, owner: str = "user_nid") -> Table:
    return Table(name, data_class, owner, resident=True)


def _replicated(name: str, data_class: DataClass, owner: str | None = None, via: str | None = None) -> Table:
    return Table(name, data_class, owner, via=via)


def _plumbing(name: str) -> Table:
    return Table(name, None, None)


TABLES: dict[str, Table] = {
    table.name: table
    for table in (
        _replicated("users", DataClass.EVENTS, "user_nid"),
        _plumbing("residents"),
        _plumbing("stream"),
        _resident("accounts", DataClass.ACCOUNT),
        _resident("pins", DataClass.ACCOUNT),
        _resident("threepids", DataClass.ACCOUNT),
        _resident("devices", DataClass.ACCOUNT),
        _resident("access_tokens", DataClass.ACCOUNT),
        _resident("refresh_tokens", DataClass.ACCOUNT),
        _resident("account_data", DataClass.ACCOUNT),
        _resident("push_rules", DataClass.ACCOUNT),
        _resident("pushers", DataClass.ACCOUNT),
        _resident("filters", DataClass.ACCOUNT),
        _resident("forgotten_rooms", DataClass.ACCOUNT),
        _resident("private_receipts", DataClass.ACCOUNT),
        _resident("unread_counts", DataClass.ACCOUNT),
        _resident("client_transactions", DataClass.ACCOUNT),
        _resident("sliding_positions", DataClass.ACCOUNT),
        _resident("delayed_events", DataClass.ACCOUNT),
        _resident("dehydrated_devices", DataClass.ACCOUNT),
        _resident("chores", DataClass.ACCOUNT),
        _resident("browser_sessions", DataClass.ACCOUNT),
        _resident("oauth_grants", DataClass.ACCOUNT),
        _resident("oauth_sessions", DataClass.ACCOUNT),
        _resident("upstream_identities", DataClass.ACCOUNT),
        _resident("reports", DataClass.ACCOUNT),
        _resident("consents", DataClass.ACCOUNT),
        _resident("roles", DataClass.ACCOUNT),
        _resident("admin_log", DataClass.ACCOUNT),
        _resident("admin_log_heads", DataClass.ACCOUNT),
        _resident("thread_subscriptions", DataClass.ACCOUNT),
        _resident("sessions", DataClass.SESSIONS),
        _resident("device_days", DataClass.SESSIONS),
        _plumbing("epochs"),
        _resident("backup_versions", DataClass.KEY_BACKUP),
        _resident("backup_sessions", DataClass.KEY_BACKUP),
        _resident("to_device", DataClass.MAILBOX),
        _replicated("device_keys", DataClass.KEYS, "user_nid"),
        _replicated("cross_signing_keys", DataClass.KEYS, "user_nid"),
        _resident("user_signatures", DataClass.KEYS, "signer_nid"),
        _replicated("device_list_changes", DataClass.KEYS, "user_nid"),
        _resident("key_holders", DataClass.KEYS),
        _resident("key_manifests", DataClass.KEYS),
        _replicated("key_replicas", DataClass.KEYS, "user_nid"),
        _replicated("remote_device_lists", DataClass.KEYS, "user_nid"),
        _replicated("carried_proofs", DataClass.KEYS, "user_nid"),
        _resident("one_time_keys", DataClass.KEYS),
        _resident("fallback_keys", DataClass.KEYS),
        _replicated("rooms", DataClass.EVENTS),
        _replicated("events", DataClass.EVENTS, "sender_nid"),
        _replicated("auth_links", DataClass.EVENTS, via="event_nid"),
        _replicated("event_transactions", DataClass.EVENTS, "sender_nid"),
        _replicated("current_state", DataClass.EVENTS, via="event_nid"),
        _replicated("state_changes", DataClass.EVENTS, via="event_nid"),
        _replicated("state_groups", DataClass.EVENTS),
        _replicated("state_group_entries", DataClass.EVENTS, via="event_nid"),
        _replicated("memberships", DataClass.EVENTS, "user_nid"),
        _replicated("room_nodes", DataClass.EVENTS),
        _resident("invitations", DataClass.EVENTS),
        _replicated("relations", DataClass.EVENTS, "sender_nid"),
        _replicated("threads", DataClass.EVENTS),
        _replicated("member_names", DataClass.EVENTS, via="event_nid"),
        _replicated("openings", DataClass.EVENTS, via="event_nid"),
        _replicated("erased_users", DataClass.EVENTS, "user_nid"),
        _replicated("waiting_redactions", DataClass.EVENTS, via="redaction_nid"),
        _replicated("aliases", DataClass.EVENTS, "creator_nid"),
        _replicated("receipts", DataClass.RECEIPTS, "user_nid"),
        _resident("presence", DataClass.PRESENCE),
        _resident("profiles", DataClass.PROFILE),
        _resident("media", DataClass.MEDIA),
        _replicated("remote_media", DataClass.MEDIA),
        _plumbing("outbox"),
        _plumbing("inbox"),
        _plumbing("received_messages"),
        _replicated("sticky_events", DataClass.EVENTS, via="event_nid"),
        _replicated("peer_rooms", DataClass.EVENTS),
        _replicated("peer_events", DataClass.EVENTS, via="event_nid"),
        _resident("peer_edus", DataClass.MAILBOX),
        _plumbing("peers"),
        _plumbing("peer_marks"),
        _plumbing("received_to_device"),
        _resident("application_services", DataClass.MAILBOX),
        _plumbing("service_items"),
        _replicated("network_rooms", DataClass.EVENTS),
        _resident("departures", DataClass.ACCOUNT),
        _plumbing("arrivals"),
        _plumbing("staged_rows"),
        _resident("earlier_homes", DataClass.ACCOUNT),
        _replicated("places_elsewhere", DataClass.EVENTS),
        _resident("carried_letters", DataClass.MAILBOX),
        _resident("move_receipts", DataClass.ACCOUNT),
        # Names of users that nobody can tell without the deployment's help, and digests of what is public.
        _plumbing("key_log"),
        _plumbing("key_log_leaves"),
        _plumbing("key_log_tiles"),
        _plumbing("key_log_cosigned"),
        _plumbing("key_log_witnesses"),
        # An authority's orders name people, but rest where they were given, whoever moves; nothing takes them away.
        _plumbing("disclosure_orders"),
        _plumbing("disclosure_approvals"),
        _plumbing("disclosure_register"),
        _plumbing("disclosure_register_head"),
        _plumbing("migrations"),
    )
}

UNARCHIVED = frozenset(["epochs", *(table.name for table in TABLES.values() if table.data_class is DataClass.SESSIONS)])
"""Tables that go into no archive: what is destroyed with an epoch would be left there."""
