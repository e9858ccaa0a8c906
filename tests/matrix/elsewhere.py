"""What has no row in the residency matrix, and why. A test holds this against the source."""

from __future__ import annotations

ONLY_TELL = {
    "homeserver.residency.authors.some_closed": "whether the events of some authors have to be looked at one by one",
    "homeserver.residency.changes.comparing.pairs": "what a plan would open and close",
    "homeserver.residency.changes.surveying._survey_rooms": "the rooms that a plan would break",
    "homeserver.residency.changes.surveying._survey_servers": "the servers that a plan would concern",
    "homeserver.residency.consents.told": "what a user is asked to agree to",
    "homeserver.residency.exposure.classes": "what is told to users of where their data goes",
    "homeserver.residency.proofs.audit._may_come": "whether an audit finds copies to which no flow leads",
}
"""Places that ask the policy and let nothing go by its answer: what they do with it."""

_SERVICES = "tests/application_services/"
_LETTERS = "tests/matrix/test_letters.py::test_a_letter_goes_only_where_notifications_may"
TESTED_ALONE = {
    "homeserver.e2ee.carried._get_from": "tests/transparency/test_carried.py::test_no_proof_comes_where_keys_may_not",
    "federation.joining._check_room": "tests/federation/test_hostile_joins.py"
    "::test_a_room_with_a_server_that_it_may_not_span_is_left_again",
    "homeserver.application_services.masquerade.caller": _SERVICES
    + "test_acting.py::test_users_of_other_nodes_can_be_acted_as_where_that_may_flow",
    "homeserver.accounts.letters.may_reach": _LETTERS,
    "homeserver.application_services.sending.gathering.lets_out": _SERVICES
    + "test_residency.py::test_only_what_may_flow_is_told",
    "homeserver.application_services.sending.gathering._Gathering.take": _SERVICES
    + "test_residency.py::test_only_what_may_flow_is_told",
    "homeserver.application_services.sending.gathering._Gathering.take_event": _SERVICES
    + "test_residency.py::test_what_somebody_of_another_node_says_needs_a_flow_from_there",
    "homeserver.application_services.sending.gathering._Gathering.take_fleeting": _SERVICES
    + "test_residency.py::test_only_what_may_flow_is_told",
    "homeserver.application_services.sending.gathering._Gathering.take_keys": _SERVICES
    + "test_residency.py::test_what_may_flow_no_more_is_withheld_and_counted",
    "homeserver.application_services.sending.gathering._Gathering.take_letter": _SERVICES
    + "test_residency.py::test_what_may_flow_no_more_is_withheld_and_counted",
    "homeserver.push.pushers._check_address": _LETTERS,
    "homeserver.residency.moves.homes.examine": "tests/moves/test_homes.py"
    "::test_a_room_is_not_ordered_where_it_has_no_members_or_may_not_be",
    "homeserver.residency.moves.rooms_ahead.bring_left": "tests/matrix/test_moving.py::test_rooms_that_were_left",
    "homeserver.residency.moves.rooms_ahead._examined": "tests/moves/test_moving.py"
    "::test_a_room_that_may_not_span_the_target_blocks",
    "homeserver.rooms.acquaintance.shown": "tests/rooms/test_presence.py"
    "::test_who_comes_later_is_told_nothing_that_may_not_flow",
    "homeserver.rooms.spaces.summary_for_anybody": "tests/federation/test_spaces.py::test_a_room_in_short_for_anybody",
    "homeserver.rooms.third_party.accept": "tests/federation/test_third_party.py"
    "::test_a_proof_is_not_taken_across_a_border",
}
"""Places whose scene is too much for a row: the test that tries them."""

WITHOUT_DATA = {"query": "a kind of query that is not among the rows: answered with 404"}
"""Routes for other servers that need no flow, and why."""

KINDS_ALONE = {
    "to_device": "tests/residency/test_isolation.py::test_messages_to_devices_wait",
}
"""Kinds of parcels whose scene is too much for a row: the test that tries them."""
