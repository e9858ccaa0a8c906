"""residency.toml: what is read from it, and for each kind of mistake the line, the key and the words."""

from pathlib import Path

import pytest

from config.disclosure import Disclosure
from config.kinds import Duration, Secret
from config.load import load, load_policy, policy_from_text
from config.problems import Faults
from config.residency import Default, Flow, Jurisdiction, NodePlace, Peer, Pin, Residency, Retention
from tests.config.support import GOLDEN, golden_with, policy_faults

DAYS = 86_400_000
KEY = "Noi6WqcDj0QmPxCNQqgezwTlBKrfqehY1u2FyWP9uYw"

LEAST = """\
format = 1
serial = 1
[jurisdictions.FR]
[nodes.paris]
jurisdiction = "FR"
database = "sqlite:paris/node.db"
media = "file:paris/media"
"""


def test_the_golden_example_loads_exactly() -> None:
    assert load_policy(GOLDEN / "residency.toml", environ={}).residency == Residency(
        format=1,
        serial=7,
        jurisdictions={
            "IR": Jurisdiction(code="IR", name="Iran", languages=("fa",)),
            "FR": Jurisdiction(code="FR", name="France", languages=("fr",)),
        },
        nodes={
            "tehran": NodePlace(
                name="tehran", jurisdiction="IR", database="sqlite:tehran/node.db", media="file:tehran/media"
            ),
            "paris": NodePlace(
                name="paris", jurisdiction="FR", database="sqlite:paris/node.db", media="file:paris/media"
            ),
        },
        pins=(
            Pin(phone_prefix="+98", node="tehran"),
            Pin(token="fr-*", node="paris"),
            Pin(choice=True, nodes=("tehran", "paris")),
        ),
        default=Default(node="paris"),
        peers=(Peer(server="matrix.gov.example", jurisdiction="FR"),),
        flows=(
            Flow(from_="IR", to=("FR",), classes=("events", "keys", "media", "profile", "receipts"), consent=True),
            Flow(from_="FR", to=("IR", "unknown"), classes=("*",), consent=False),
        ),
        retention={"IR": Retention(sessions=Duration(90 * DAYS), media_cache=Duration(30 * DAYS))},
        disclosure={"IR": Disclosure(fields=("ip_addresses", "phone_number"), approvals=2)},
    )


def test_rules_know_their_lines() -> None:
    residency = load_policy(GOLDEN / "residency.toml", environ={}).residency
    rows = (GOLDEN / "residency.toml").read_text("utf-8").split("\n")
    for rules, header in ((residency.pins, "[[pins]]"), (residency.peers, "[[peers]]"), (residency.flows, "[[flows]]")):
        found = [number for number, row in enumerate(rows, 1) if row.startswith(header)]
        assert [rule.line for rule in rules] == found
    assert rows[residency.default.line - 1].startswith("[default]")


def test_the_least_policy_refuses_and_denies() -> None:
    policy = policy_from_text(LEAST)
    assert policy.default.node is None
    assert policy.default.refuse
    assert policy.default.line == 0
    assert policy.pins == ()
    assert policy.residency.flows == ()
    assert policy.retention("FR") == Retention()
    assert policy.disclosure("FR").fields == ()


def test_places_of_storage() -> None:
    nodes = policy_from_text(
        LEAST
        + '[nodes.lyon]\njurisdiction = "FR"\ndatabase = "postgresql://d@10.0.0.1/lyon"\nmedia = "file:/srv/lyon"\n'
        'password_file = "lyon.password"\n',
        "/etc/domicile/residency.toml",
    ).nodes
    assert nodes["paris"].engine == "sqlite"
    assert nodes["paris"].database_path(Path("/data")) == Path("/data/paris/node.db")
    assert nodes["paris"].media_path(Path("/data")) == Path("/data/paris/media")
    assert nodes["lyon"].engine == "postgresql"
    assert nodes["lyon"].media_path(Path("/data")) == Path("/srv/lyon")
    assert nodes["lyon"].password == Secret(file=Path("/etc/domicile/lyon.password"))
    with pytest.raises(ValueError, match="no database file"):
        nodes["lyon"].database_path(Path("/data"))


# One passage of the golden example changed -> line, key, message.
CHANGED = [
    ("format = 1\n", "format = 2\n", 1, "format", "wanted the number 1, found the number 2"),
    ("serial = 7 ", "serial = 0 ", 2, "serial", "wanted a whole number, 1 or more, found the number 0"),
    ("[jurisdictions.FR]", "[jurisdictions.fr]", 8, "jurisdictions.fr",
     'wanted an ISO 3166 code such as "FR", or "X-" and a name, found "fr"; did you mean "FR"?'),
    ('[jurisdictions.FR]\nname = "France"', '[jurisdictions.FR]\nname = "France"\n[jurisdictions.unknown]', 10,
     "jurisdictions.unknown", 'wanted an ISO 3166 code such as "FR", or "X-" and a name, found "unknown"; '
     '"unknown" is reserved for servers that the policy does not know'),
    ('languages = ["fa"]', 'languages = ["fa", "فارسی"]', 6, "jurisdictions.IR.languages[1]",
     'wanted a language such as "fr" or "pt-BR", found "فارسی"'),
    ('[nodes.tehran]\njurisdiction = "IR"', '[nodes.tehran]\njurisdiction = "IQ"', 13, "nodes.tehran.jurisdiction",
     'there is no jurisdiction "IQ"; there are IR, FR'),
    ('[nodes.tehran]\njurisdiction = "IR"', '[nodes.tehran]\njurisdiction = "unknown"', 13, "nodes.tehran.jurisdiction",
     'wanted an ISO 3166 code such as "FR", or "X-" and a name, found "unknown"; '
     '"unknown" is reserved for servers that the policy does not know'),
    ('[nodes.tehran]\njurisdiction = "IR"', "[nodes.tehran]", 12, "nodes.tehran.jurisdiction",
     'is missing; wanted an ISO 3166 code such as "FR", or "X-" and a name'),
    ('"sqlite:tehran/node.db"', '"sqlite://tehran/node.db"', 14, "nodes.tehran.database",
     'wanted "sqlite:" and a path, or "postgresql://…", found "sqlite://tehran/node.db"; '
     'write one colon and the path: "sqlite:tehran/node.db"'),
    ('"sqlite:tehran/node.db"', '"postgres://x/y"', 14, "nodes.tehran.database",
     'wanted "sqlite:" and a path, or "postgresql://…", found "postgres://x/y"; write "postgresql://"'),
    ('"sqlite:paris/node.db"', '"sqlite:tehran/../tehran//node.db"', 19, "nodes.paris.database",
     "is that of the node tehran too; each node has its own"),
    ('"file:paris/media"', '"file:./tehran/media"', 20, "nodes.paris.media",
     "is that of the node tehran too; each node has its own"),
    ('"file:paris/media"', '"s3:paris"', 20, "nodes.paris.media", 'wanted "file:" and a path, found "s3:paris"'),
    ('media = "file:paris/media"', 'media = "file:paris/media"\npassword_file = "x"', 21, "nodes.paris.password_file",
     "an SQLite database has no password"),
    ('phone_prefix = "+98"', 'phone_prefix = "0098"', 23, "pins[0].phone_prefix",
     'wanted the beginning of a phone number such as "+98", found "0098"; did you mean "+98"?'),
    ('phone_prefix = "+98"\n', "", 22, "pins[0]", "matches nobody; a rule needs phone_prefix, token or choice"),
    ('phone_prefix = "+98"', 'phone_prefx = "+98"', 23, "pins[0].phone_prefx",
     'unknown key; did you mean "phone_prefix"?'),
    ('phone_prefix = "+98"\nnode = "tehran"', 'phone_prefix = "+98"\nnode = "teheran"', 24, "pins[0].node",
     'there is no node "teheran"; did you mean "tehran"?'),
    ('phone_prefix = "+98"\nnode = "tehran"', 'phone_prefix = "+98"', 22, "pins[0].node",
     "is missing; wanted the node where the data of those who match rests"),
    ('phone_prefix = "+98"\nnode = "tehran"', 'phone_prefix = "+98"\nnodes = ["tehran"]', 24, "pins[0].nodes",
     "only a rule with choice = true has several nodes; write node"),
    ('token = "fr-*" ', 'phone_prefix = "+9899" ', 26, "pins[1]",
     "never matches: pins[0] matches all that this rule would, and comes first"),
    ('nodes = ["tehran", "paris"]', 'nodes = [\n"tehran",\n"pari"]', 34, "pins[2].nodes[1]",
     'there is no node "pari"; did you mean "paris"?'),
    ('nodes = ["tehran", "paris"]', 'nodes = ["tehran", "tehran"]', 32, "pins[2].nodes[1]",
     '"tehran" stands in this list twice'),
    ('nodes = ["tehran", "paris"]', 'nodes = ["tehran"]', 32, "pins[2].nodes",
     "wanted at least two nodes to choose from"),
    ("choice = true  ", 'choice = true\nnode = "paris"  ', 32, "pins[2].node",
     "with choice, the nodes to choose from stand in nodes"),
    ('node = "paris"                   #', 'node = "rome" #', 35, "default.node",
     'there is no node "rome"; there are tehran, paris'),
    ('node = "paris"                   #', 'node = "paris"\nrefuse = "No." #', 34, "default",
     "wanted either node or refuse, and not both"),
    ('node = "paris"                   #', "#", 34, "default", "wanted either node or refuse, and not both"),
    ('"matrix.gov.example"', '"https://matrix.gov.example"', 38, "peers[0].server",
     'wanted a server name such as "matrix.example.org", or "*." and a domain, found "https://matrix.gov.example"'),
    ('"matrix.gov.example"', '"*.example:8448"', 38, "peers[0].server",
     'wanted a server name such as "matrix.example.org", or "*." and a domain, found "*.example:8448"'),
    ('"matrix.gov.example" ', '"A.example"\njurisdiction = "IR"\n[[peers]]\nserver = "a.example"', 41,
     "peers[1].server",
     "stands in peers[0] already"),
    ('[[peers]]\nserver = "matrix.gov.example"    # exact name or "*.example"\njurisdiction = "FR"',
     '[[peers]]\nserver = "a.b"\njurisdiction = "DE"', 39, "peers[0].jurisdiction",
     'there is no jurisdiction "DE"; there are IR, FR'),
    ('from = "IR"', 'from = "IE"', 42, "flows[0].from", 'there is no jurisdiction "IE"; there are IR, FR'),
    ('to = ["FR"]', 'to = ["FR", "IR"]', 43, "flows[0].to[1]",
     "IR is where this flow begins; inside it everything flows anyway"),
    ('to = ["FR"]', 'to = []', 43, "flows[0].to",
     'wanted a list, each an ISO 3166 code such as "FR", or "X-" and a name, found an empty list'),
    ('to = ["FR"]', 'to = "FR"', 43, "flows[0].to",
     'wanted a list, each an ISO 3166 code such as "FR", or "X-" and a name, found "FR"; put it in [ ]'),
    ('to = ["IR", "unknown"]', 'to = ["IR",\n  "everywhere"]', 49, "flows[1].to[1]",
     'wanted an ISO 3166 code such as "FR", or "X-" and a name, found "everywhere"'),
    ('"media", "profile"', '"account", "profile"', 44, "flows[0].classes[2]",
     '"account" never leaves its jurisdiction, so no flow can name it'),
    ('"media", "profile"', '"mailbox", "profile"', 44, "flows[0].classes[2]",
     '"mailbox" cannot be named: messages to devices go to their addressee wherever keys may flow'),
    ('"media", "profile"', '"medai", "profile"', 44, "flows[0].classes[2]",
     'there is no data class "medai"; did you mean "media"?'),
    ("consent = false", 'consent = "no"', 50, "flows[1].consent", 'wanted true or false, found "no"'),
    ("[retention.IR]", "[retention.IL]", 52, "retention.IL", 'there is no jurisdiction "IL"; there are IR, FR'),
    ('sessions = "90d"', "sessions = 90", 53, "retention.IR.sessions",
     'wanted a duration such as "90d" or "1h", found the number 90; '
     "the unit is missing; ms, s, m, h, d, w are possible"),
    ("[disclosure.IR]", "[disclosure.XX]", 56, "disclosure.XX", 'there is no jurisdiction "XX"; there are IR, FR'),
    ('["ip_addresses", "phone_number"]', '["ip_addresses", "content"]', 57, "disclosure.IR.fields[1]",
     'wanted "ip_addresses", "user_agents", "last_seen", "phone_number", "email_address" or "registration_time", '
     'found "content"'),
    ("approvals = 2", "approvals = 0", 58, "disclosure.IR.approvals",
     "wanted a whole number from 1 to 100, found the number 0"),
    ("approvals = 2", f'approvals = 2\napprovers = {{ parisa = "{KEY}" }}', 58, "disclosure.IR.approvals",
     "there are only 1 approvers, so that nothing could be approved"),
    ("approvals = 2", f'approvals = 1\n[disclosure.IR.approvers]\nparisa = "{KEY}"\nreza = "{KEY}"', 61,
     "disclosure.IR.approvers.reza", "is the key of parisa too: each has their own"),
    ("approvals = 2", f'approvals = 1\napprovers = {{ "two words" = "{KEY}" }}', 59,
     "disclosure.IR.approvers.two words", 'wanted a name without white space, found "two words"'),
    ("approvals = 2", 'approvals = 1\napprovers = { parisa = "c2hvcnQ" }', 59, "disclosure.IR.approvers.parisa",
     'wanted an ed25519 public key in unpadded Base64, found "c2hvcnQ"'),
    ("approvals = 2", 'approvals = 1\napprovers = ["parisa"]', 59, "disclosure.IR.approvers",
     "wanted a table of names, each with an ed25519 public key in unpadded Base64, found a list"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "line", "key", "message"), CHANGED)
def test_fault(tmp_path: Path, old: str, new: str, line: int, key: str, message: str) -> None:
    assert policy_faults(tmp_path, golden_with(old, new)) == [(line, key, message)]


def test_what_the_whole_file_lacks(tmp_path: Path) -> None:
    assert policy_faults(tmp_path, "# nothing\n") == [
        (1, "format", "is missing; wanted the number 1"),
        (1, "serial", "is missing; wanted a whole number, 1 or more"),
        (1, "jurisdictions", "is missing; wanted tables by name, such as [jurisdictions.FR]"),
        (1, "nodes", "is missing; wanted tables by name, such as [nodes.paris]"),
    ]


def test_no_nodes_and_a_node_that_is_no_table(tmp_path: Path) -> None:
    head = "format = 1\nserial = 1\n[jurisdictions.FR]\n[nodes]\n"
    assert policy_faults(tmp_path, head) == [(4, "nodes", "wanted tables by name, such as [nodes.paris], found none")]
    assert policy_faults(tmp_path, head + 'paris = "x"\n') == [
        (5, "nodes.paris", 'wanted a table, found "x"; write [nodes.paris]')
    ]


def test_databases_of_one_postgresql_server(tmp_path: Path) -> None:
    def with_databases(first: str, second: str) -> str:
        return golden_with("sqlite:tehran/node.db", first).replace("sqlite:paris/node.db", second)

    one = "postgresql://a:pw@db.example/domicile"
    assert policy_faults(tmp_path, with_databases(one, "postgresql://b@DB.example:5432/domicile")) == [
        (19, "nodes.paris.database", "is that of the node tehran too; each node has its own")
    ]
    assert policy_faults(tmp_path, with_databases(one, "postgresql://a:pw@db.example/other")) == []


def test_many_faults_come_together_and_one_mistake_is_told_once(tmp_path: Path) -> None:
    text = (GOLDEN / "residency.toml").read_text("utf-8")
    text = text.replace('media = "file:tehran/media"', "media = 7").replace('token = "fr-*"', "token = []")
    text = text.replace('to = ["FR"]', 'to = ["DE"]').replace("consent = false", "consnt = false")
    assert [(line, key) for line, key, _ in policy_faults(tmp_path, text)] == [
        (15, "nodes.tehran.media"),
        (27, "pins[1].token"),
        (43, "flows[0].to[0]"),
        (50, "flows[1].consnt"),
    ]


def test_both_files_are_reported_together(tmp_path: Path) -> None:
    (tmp_path / "domicile.toml").write_text('server_name = "a.example"\nresidency = "r.toml"\nport = 1\n')
    (tmp_path / "r.toml").write_text(golden_with("serial = 7 ", "serial = true ") + "[oops]\n")
    with pytest.raises(Faults) as faults:
        load(tmp_path / "domicile.toml", environ={})
    assert [(problem.file, problem.line, problem.key) for problem in faults.value.problems] == [
        (str(tmp_path / "domicile.toml"), 3, "port"),
        (str(tmp_path / "r.toml"), 2, "serial"),
        (str(tmp_path / "r.toml"), 59, "oops"),
    ]


def test_the_policy_is_checked_even_if_the_settings_are_no_toml(tmp_path: Path) -> None:
    (tmp_path / "domicile.toml").write_text("server_name\n")
    with pytest.raises(Faults) as faults:
        load(tmp_path / "domicile.toml", environ={})
    assert len(faults.value.problems) == 1
    (tmp_path / "residency.toml").write_text("format = 1\nserial\n")
    with pytest.raises(Faults) as faults:
        load(tmp_path / "domicile.toml", environ={})
    assert [(Path(problem.file).name, problem.line) for problem in faults.value.problems] == [
        ("domicile.toml", 1),
        ("residency.toml", 2),
    ]


def test_a_missing_policy_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "domicile.toml").write_text('server_name = "a.example"\n')
    with pytest.raises(Faults, match=r"residency\.toml: cannot be read: No such file"):
        load(tmp_path / "domicile.toml", environ={})


def test_this_server_is_no_peer(tmp_path: Path) -> None:
    (tmp_path / "domicile.toml").write_text('server_name = "Matrix.Gov.example"\n')
    (tmp_path / "residency.toml").write_text((GOLDEN / "residency.toml").read_text("utf-8"))
    with pytest.raises(Faults) as faults:
        load(tmp_path / "domicile.toml", environ={})
    assert [(problem.line, problem.key, problem.message) for problem in faults.value.problems] == [
        (38, "peers[0].server", "is this server itself; its jurisdictions are those of its nodes")
    ]


def test_files_are_named_as_the_operator_named_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/domicile.toml").write_text('server_name = "a.example"\nx = 1\n')
    (tmp_path / "etc/residency.toml").write_text(LEAST + "x = 1\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Faults) as faults:
        load("etc/domicile.toml", environ={})
    assert [problem.file for problem in faults.value.problems] == ["etc/domicile.toml", "etc/residency.toml"]


def test_both_files_load(tmp_path: Path) -> None:
    settings, policy = load(GOLDEN / "domicile.toml", environ={})
    assert (settings.server_name, policy.server_name, policy.serial) == ("example.org", "example.org", 7)
