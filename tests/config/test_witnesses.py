"""[witnesses.NAME] and [witnessing] of residency.toml: what is read, and what is said of each mistake."""

from pathlib import Path

import pytest

from config.load import policy_from_text
from config.witnesses import Witness, Witnessing
from tests.config.support import policy_faults
from tests.config.test_load_policy import LEAST

KEY = "matrix.example.net/_domicile/v1/witness+781780cc+BCmsuuFBvMrwsi4alNNNC8c2HlJtC/4SyJeUvJMilm3X"
LOG = "example.org/_domicile/v1/log/tehran+7a1d36ba+AQOhB7/zzhC+HXDdGOdLwJln5NYwm6UNXx3chmQSVTG4"
ZURICH = f"""
[jurisdictions.CH]
[witnesses.zurich]
key = "{KEY}"
url = "https://matrix.example.net/w/"
jurisdiction = "CH"
[witnessing]
quorum = 1
"""


def test_witnesses_are_read() -> None:
    residency = policy_from_text(LEAST + ZURICH, "residency.toml", "example.org").residency
    expected = Witness(name="zurich", key=KEY, url="https://matrix.example.net/w", jurisdiction="CH")
    assert residency.witnesses == {"zurich": expected}
    assert residency.witnessing == Witnessing(quorum=1)
    without = policy_from_text(LEAST, "residency.toml", "example.org").residency
    assert (without.witnesses, without.witnessing.quorum) == ({}, 0)


OTHER = ZURICH + ZURICH.partition("[witnessing]")[0].partition("[witnesses.zurich]")[2].join(("[witnesses.basel]", ""))


@pytest.mark.parametrize(
    ("text", "key", "said"),
    [
        (ZURICH.replace("quorum = 1", "quorum = 2"), "witnessing.quorum", "there are witnesses only in CH"),
        ("[witnessing]\nquorum = 1\n", "witnessing.quorum", "there are witnesses only nowhere"),
        (ZURICH.replace("[jurisdictions.CH]", ""), "witnesses.zurich.jurisdiction", "CH"),
        (ZURICH.replace("[witnesses.zurich]", "[witnesses.Zurich]"), "witnesses.Zurich", "witness's name"),
        (ZURICH.replace(KEY, KEY[:-1] + "Y"), "witnesses.zurich.key", "a witness's public key"),
        (ZURICH.replace(KEY, KEY.replace("781780cc", "781780cd")), "witnesses.zurich.key", "a witness's public key"),
        (ZURICH.replace(KEY, LOG), "witnesses.zurich.key", "a witness's public key"),
        (ZURICH.replace(KEY, "zurich"), "witnesses.zurich.key", "a witness's public key"),
        (ZURICH.replace("https://", ""), "witnesses.zurich.url", "a web address"),
        (OTHER, "witnesses.basel.key", "is that of witnesses.zurich too"),
        (OTHER, "witnesses.basel.url", "is that of witnesses.zurich too"),
    ],
)
def test_each_mistake_is_said(text: str, key: str, said: str, tmp_path: Path) -> None:
    found = {where: message for _, where, message in policy_faults(tmp_path, LEAST + text)}
    assert said in found[key]
