"""The doctor says where a policy promises what is not kept."""

from __future__ import annotations

from homeserver.control import commands
from tests.deployment import POLICY, Deploy
from tests.sealing.play import SEALING, custodians
from tests.support import ON_SQLITE, aio

CEILING = '[disclosure.FR]\nfields = ["ip_addresses", "phone_number", "last_seen"]\n'


@ON_SQLITE
@aio
async def test_fields_without_custodians(deploy: Deploy) -> None:
    bare, named = (
        await deploy(policy=POLICY + CEILING),
        await deploy(policy=SEALING + CEILING + custodians("leila", "babak", code="FR")),
    )
    (finding,) = (await commands.perform(bare.server, "doctor", {}))["findings"]
    assert (finding["node"], finding["count"]) == ("paris", 2)
    assert "no custodians" in finding["what"]
    assert "take ip_addresses, last_seen from disclosure.FR.fields" in finding["remedy"]
    assert (await commands.perform(named.server, "doctor", {}))["findings"] == []
