"""Previews of links: whom the server asks for them, and what web servers can make it do."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from homeserver.media import previews, sweep, upload
from homeserver.media.previews import AT_ONCE, FAILED_MS, KNOWN_MS, LARGEST_PAGE, LARGEST_PICTURE, REDIRECTS, Looking
from homeserver.protocol.errors import InvalidParam
from tests.deployment import FLOWING, SETTINGS, Answer, Deploy, Deployment, User, flow
from tests.federation.authority import Asked, Authority, Script, Stranger, says, silence, writes
from tests.federation.internet import Internet, Wired
from tests.media.transfers import download_path, files_in, get, opened, picture, until
from tests.support import aio

PREVIEW = "/_matrix/client/v1/media/preview_url"
ON = f"{SETTINGS}\n[media]\nurl_previews = true\n"
OPEN = FLOWING + flow("IR", "unknown", classes=["media"])
"""Media may come to Iran from anywhere, and to France from Iran only."""
PAGE = b"""<title>A page</title><meta property="og:image" content="/a.png">
<meta property="og:image:width" content="40">"""
DAY_MS = 86_400_000


@dataclass
class Web:
    """Web servers by name, of which each answers each path by a script, and a deployment that asks them."""

    deployment: Deployment
    outbound: Wired
    stranger: Stranger
    paths: dict[str, Script] = field(default_factory=dict)

    def put(self, path: str, content: bytes | Script, kind: str = "text/html", status: int = 200, **more: str) -> None:
        """Let all the web answer a path."""
        self.paths[path] = says(content, status, Content_Type=kind, **more) if isinstance(content, bytes) else content

    def leads(self, path: str, to: str, status: int = 302) -> None:
        """Let a path lead elsewhere."""
        self.put(path, b"<title>No</title>", status=status, Location=to)

    async def look(self, user: User, link: str, **query: str) -> Answer:
        """Ask for a preview."""
        return await user.asks("GET", PREVIEW, url=link, **query)

    @property
    def asked(self) -> list[str]:
        """The targets that were asked for, in order."""
        return [asked.line.split()[1] for asked in self.stranger.asked]


@asynccontextmanager
async def web(deploy: Deploy, tmp_path: Path, *, allow: str = "", **kwargs: Any) -> AsyncIterator[Web]:
    """An internet with a.test and b.test, and a deployment in it that makes previews."""
    deployment = await deploy(**{"settings": ON, "policy": OPEN, **kwargs})
    authority, internet = Authority(tmp_path), Internet()

    async def script(asked: Asked, writer: asyncio.StreamWriter) -> None:
        known = made.paths.get(asked.line.split()[1], says(b"no", 404))
        await known(asked, writer)

    stranger = Stranger(authority.issue("a.test", "b.test", "xn--mgba3gch31f.test", "127.0.0.1"), script)
    port = await stranger.open()
    for name in ("a.test", "b.test", "xn--mgba3gch31f.test"):
        internet.put(name, 443, port)
    allowed = [ip_network(allow)] if allow else []
    outbound = Wired(internet, authority, telemetry=deployment.server.telemetry, allowed=allowed)
    deployment.site.server = replace(deployment.server, outbound=outbound)
    made = Web(deployment, outbound, stranger)
    try:
        yield made
    finally:
        await outbound.close()
        await stranger.close()


@aio
async def test_a_page_and_its_picture(deploy: Deploy, tmp_path: Path) -> None:
    async with web(deploy, tmp_path) as there:
        alice = await there.deployment.user("alice")
        there.put("/page?x=1", PAGE)
        there.put("/a.png", picture(40, 30), "image/png; x=y")
        answer = await there.look(alice, "https://a.test/page?x=1#part", ts="1510610716656")
        assert answer.status == 200, answer
        uri = answer.json.pop("og:image")
        assert answer.json == {
            "og:title": "A page",
            "og:url": "https://a.test/page?x=1",
            "og:image:type": "image/png",
            "og:image:width": 40,
            "matrix:image:size": len(picture(40, 30)),
        }
        got = await get(alice, download_path(uri.rpartition("/")[2]))
        assert (got.content_type, opened(got.body).size) == ("image/png", (40, 30))
        assert len(files_in(there.deployment, "tehran")) == 1
        assert files_in(there.deployment, "paris") == []
        asked = there.stranger.asked[0]
        assert asked.header("accept-encoding") == "identity"
        assert asked.header("cookie") is None
        assert asked.header("referer") is None
        counted = there.deployment.server.telemetry.counter("domicile_federation_bytes", "", []).values()
        assert counted["unknown", "IR"] == len(PAGE) + len(picture(40, 30))


@aio
async def test_off_unless_the_operator_wants_them(deploy: Deploy, tmp_path: Path) -> None:
    async with web(deploy, tmp_path, settings=SETTINGS) as there:
        alice = await there.deployment.user("alice")
        for path in (PREVIEW, "/_matrix/media/v3/preview_url"):
            answer = await alice.asks("GET", path, url="https://a.test/")
            assert (answer.status, answer.errcode) == (404, "M_UNRECOGNIZED")
        assert there.outbound.internet.lookups == []


@aio
async def test_the_old_route(deploy: Deploy, tmp_path: Path) -> None:
    async with web(deploy, tmp_path) as there:
        alice = await there.deployment.user("alice")
        there.put("/", b"<title>Here</title>")
        answer = await alice.asks("GET", "/_matrix/media/v3/preview_url", url="https://a.test")
        assert answer.json == {"og:title": "Here", "og:url": "https://a.test/"}
        assert (await there.deployment.asked("GET", PREVIEW, url="https://a.test")).errcode == "M_MISSING_TOKEN"
        assert (await alice.asks("GET", PREVIEW)).errcode == "M_MISSING_PARAM"
        assert (await there.look(alice, "https://a.test", ts="now")).errcode == "M_INVALID_PARAM"


@pytest.mark.parametrize(
    ("link", "asked"),
    [
        ("http://a.test", "https://a.test/"),
        ("HTTP://A.test:80/x", "https://a.test/x"),
        ("https://a.test:8443/x?y#z", "https://a.test:8443/x?y"),
        ("https://a.test/سلام?q=é b", "https://a.test/%D8%B3%D9%84%D8%A7%D9%85?q=%C3%A9%20b"),
        ("https://a.test/a%20b", "https://a.test/a%20b"),
        ("https://bücher.test/", "https://xn--bcher-kva.test/"),
        ("https://[2600::1]/", "https://[2600::1]/"),
    ],
)
def test_what_a_link_leads_to(link: str, asked: str) -> None:
    assert previews.address(link) == asked


@pytest.mark.parametrize(
    "link",
    [
        "",
        "a.test",
        "ftp://a.test/",
        "file:///etc/passwd",
        "javascript:x",
        "https://",
        "https:///x",
        "https://u:p@a.test/",
        "https://a.test:99999/",
        "https://[::1/",
        "https://a b/",
        "https://" + "x" * 70 + "é.test/",
        "mxc://a.test/x",
        "https://a.test/" + "x" * 3000,
        "https://a_b.test/",
        "data:text/html,x",
    ],
)
def test_what_is_no_link(link: str) -> None:
    with pytest.raises(InvalidParam):
        previews.address(link)


PRIVATE = [
    *("https://127.0.0.1/", "https://10.0.0.1/", "https://169.254.169.254/latest", "https://[::1]/"),
    *("https://[::ffff:10.0.0.1]/", "https://inside.test/"),
]


@pytest.mark.parametrize("link", PRIVATE)
@pytest.mark.parametrize("how", ["itself", "redirect", "picture"])
@aio
async def test_nothing_behind_the_firewall_is_asked(deploy: Deploy, tmp_path: Path, link: str, how: str) -> None:
    async with web(deploy, tmp_path) as there:
        alice = await there.deployment.user("alice")
        there.outbound.internet.hosts["inside.test"] = ["192.168.1.1"]
        there.leads("/leads", link)
        there.put("/page", b"<title>A page</title><meta property=og:image content='%s'>" % link.encode())
        first = {"itself": link, "redirect": "https://a.test/leads", "picture": "https://a.test/page"}[how]
        answer = await there.look(alice, first)
        expected = {"og:title": "A page", "og:url": first} if how == "picture" else {}
        assert (answer.status, answer.json) == (200, expected)
        assert all(address.startswith("8.") for address, _ in there.outbound.internet.dialled)


@aio
async def test_addresses_that_the_operator_allows(deploy: Deploy, tmp_path: Path) -> None:
    async with web(deploy, tmp_path, allow="127.0.0.0/8") as there:
        alice = await there.deployment.user("alice")
        there.put("/", b"<title>Inside</title>")
        there.outbound.internet.ports["127.0.0.1", 443] = there.outbound.internet.ports["8.0.0.1", 443]
        assert (await there.look(alice, "https://127.0.0.1/")).json["og:title"] == "Inside"


@aio
async def test_redirects(deploy: Deploy, tmp_path: Path) -> None:
    async with web(deploy, tmp_path) as there:
        alice = await there.deployment.user("alice")
        there.put("/4", PAGE)
        for number, to in enumerate(("1", "https://b.test/2", "http://b.test/3", "//a.test/4")):
            there.leads(f"/{number}", to, (301, 302, 307, 308)[number])
        assert REDIRECTS == 4
        assert (await there.look(alice, "https://a.test/0")).json == {
            "og:title": "A page",
            "og:url": "https://a.test/4",
        }
        for path, to in (("/loop", "/loop"), ("/away", "ftp://b.test/"), ("/broken", "https://[/")):
            there.leads(path, to)
            assert (await there.look(alice, f"https://a.test{path}")).json == {}
        assert there.asked.count("/loop") == REDIRECTS + 1


@pytest.mark.parametrize(
    ("script", "found"),
    [
        (says(b"<title>A</title>", Content_Type="application/json"), {}),
        (says(b"<title>A</title>"), {}),
        (says(b"<title>A</title>", 404, Content_Type="text/html"), {}),
        (says(b"no picture", Content_Type="image/png"), {}),
        (says(b"<svg/>", Content_Type="image/svg+xml"), {}),
        (says(gzip.compress(bytes(50_000_000)), Content_Type="text/html", Content_Encoding="gzip"), {}),
        (says(b"<title>\xd4\xc1</title>", Content_Type="text/html; charset=koi8-r"), {"og:title": "та"}),
        (says(b"<title>A</title>", Content_Type="text/html; charset=zlib"), {"og:title": "A"}),
        (says(b"<title>A</title>" + bytes(3 * LARGEST_PAGE), Content_Type="text/html"), {"og:title": "A"}),
        (says(bytes(LARGEST_PAGE) + b"<title>A</title>", Content_Type="text/html"), {}),
        (says(picture(9, 9) + bytes(LARGEST_PICTURE), Content_Type="image/png"), {}),
        (writes(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 99999999999\r\n\r\n"), {}),
        (writes(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 99\r\n\r\n<title>A</title>"), {}),
        (writes(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 20_000), {}),
        (writes(b"SSH-2.0\r\n"), {}),
    ],
)
@aio
async def test_what_web_servers_answer(deploy: Deploy, tmp_path: Path, script: Script, found: dict[str, str]) -> None:
    async with web(deploy, tmp_path) as there:
        alice = await there.deployment.user("alice")
        there.put("/", script)
        answer = await there.look(alice, "https://a.test/")
        assert answer.status == 200
        answer.json.pop("og:url", None)
        assert answer.json == found
        assert files_in(there.deployment, "tehran") == []


@aio
async def test_a_page_without_an_end_is_left(deploy: Deploy, tmp_path: Path) -> None:
    async with web(deploy, tmp_path) as there:
        alice = await there.deployment.user("alice")
        gone = asyncio.Event()

        async def endless(_: Asked, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<title>A</title>")
            try:
                while True:
                    writer.write(bytes(100_000))
                    await writer.drain()
            finally:
                gone.set()

        there.put("/", endless)
        assert (await there.look(alice, "https://a.test/")).json["og:title"] == "A"
        await gone.wait()


@pytest.mark.parametrize("bound", ["PATIENCE", "LONGEST"])
@aio
async def test_slow_servers(deploy: Deploy, tmp_path: Path, bound: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(previews, bound, 0.05)
    async with web(deploy, tmp_path) as there:
        alice = await there.deployment.user("alice")
        there.put("/", silence)
        assert (await there.look(alice, "https://a.test/")).json == {}


@aio
async def test_a_preview_is_known_for_an_hour(deploy: Deploy, tmp_path: Path) -> None:
    async with web(deploy, tmp_path) as there:
        alice, bob = await there.deployment.user("alice"), await there.deployment.user("bob")
        there.put("/page", PAGE)
        there.put("/a.png", picture(40, 30), "image/png")
        found = await asyncio.gather(*(there.look(user, "https://a.test/page") for user in (alice, bob) * 3))
        assert {answer.json["og:image"] for answer in found} == {found[0].json["og:image"]}
        await there.deployment.clock.advance((KNOWN_MS - 1000) / 1000)
        await there.look(bob, "https://a.test/page")
        assert there.asked == ["/page", "/a.png"]
        await there.deployment.clock.advance(2)
        await there.look(bob, "https://a.test/page")
        assert there.asked == ["/page", "/a.png"] * 2
        assert (await there.look(alice, "https://a.test/none")).json == {}
        assert (await there.look(alice, "https://a.test/none")).json == {}
        there.put("/none", b"<title>Now</title>")
        await there.deployment.clock.advance(FAILED_MS / 1000 + 1)
        assert (await there.look(alice, "https://a.test/none")).json["og:title"] == "Now"
        assert there.asked.count("/none") == 2


@aio
async def test_pictures_are_kept_for_a_while(deploy: Deploy, tmp_path: Path) -> None:
    kept = OPEN + "\n[retention.IR]\nmedia_cache = '10d'\n"
    async with web(deploy, tmp_path, policy=kept) as there:
        alice = await there.deployment.user("alice")
        there.put("/a.png", picture(40, 30), "image/png")
        answer = await there.look(alice, "https://a.test/a.png")
        path = download_path(answer.json["og:image"].rpartition("/")[2])
        own = (await alice.asks("POST", "/_matrix/media/v3/upload", b"own")).json["content_uri"].rpartition("/")[2]
        await there.deployment.clock.advance(9 * DAY_MS / 1000)
        await sweep.sweep(there.deployment.server)
        assert (await get(alice, path)).status == 200
        await there.deployment.clock.advance(2 * DAY_MS / 1000)
        await sweep.sweep(there.deployment.server)
        assert (await get(alice, path)).errcode == "M_NOT_FOUND"
        assert (await get(alice, download_path(own))).body == b"own"
        assert len(files_in(there.deployment, "tehran")) == 1


@aio
async def test_pictures_count_against_a_quota_of_their_own(
    deploy: Deploy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload, "PASSING_FILES", 1)
    async with web(deploy, tmp_path) as there:
        alice, bob = await there.deployment.user("alice"), await there.deployment.user("bob")
        for name in ("a", "b", "c"):
            there.put(f"/{name}.html", PAGE)
        there.put("/a.png", picture(40, 30), "image/png")
        first, second = [(await there.look(alice, f"https://a.test/{name}.html")).json for name in ("a", "b")]
        assert ("og:image" in first, "og:image" in second, second["og:title"]) == (True, False, "A page")
        assert "og:image" in (await there.look(bob, "https://a.test/c.html")).json
        assert len(files_in(there.deployment, "tehran")) == 2
        put = await there.deployment.site.call(
            "POST", "/_matrix/media/v3/upload", headers={"Authorization": f"Bearer {alice.token}"}, body=b"own"
        )
        assert put.status == 200, "it takes nothing from their own files"


@aio
async def test_the_policy_says_whom_a_node_asks(deploy: Deploy, tmp_path: Path) -> None:
    async with web(deploy, tmp_path) as there:
        alice, claire = await there.deployment.user("alice"), await there.deployment.user("claire", "paris")
        there.put("/", b"<title>A</title>")
        answer = await there.look(claire, "https://a.test/")
        assert (answer.status, answer.errcode) == (403, "M_FORBIDDEN")
        assert answer.json["org.domicile.reason"] == "flow_denied"
        assert there.outbound.internet.lookups == []
        assert (await there.look(alice, "https://a.test/")).status == 200
        assert (await there.look(claire, "https://a.test/")).status == 403, "what Iran knows is no way around"


@aio
async def test_few_at_once(deploy: Deploy, tmp_path: Path) -> None:
    async with web(deploy, tmp_path) as there:
        alice = await there.deployment.user("alice")
        free = asyncio.Event()

        async def held(asked: Asked, writer: asyncio.StreamWriter) -> None:
            await free.wait()
            await says(b"<title>A</title>", Content_Type="text/html")(asked, writer)

        for number in range(AT_ONCE):
            there.put(f"/{number}", held)
        asking = [asyncio.ensure_future(there.look(alice, f"https://a.test/{number}")) for number in range(AT_ONCE)]
        memory = there.deployment.node("tehran").memory(Looking)
        await until(lambda: len(memory.tasks) == AT_ONCE)
        answer = await there.look(alice, "https://a.test/more")
        assert (answer.status, answer.errcode) == (429, "M_LIMIT_EXCEEDED")
        free.set()
        assert [answer.json["og:title"] for answer in await asyncio.gather(*asking)] == ["A"] * AT_ONCE
        assert memory.tasks == {}


@aio
async def test_the_log_says_nothing_of_links(deploy: Deploy, tmp_path: Path) -> None:
    async with web(deploy, tmp_path) as there:
        alice = await there.deployment.user("alice")
        there.put("/secret", b"<title>A</title><meta property=og:image content=https://inside.test/x>")
        with capture_logs() as logs:
            for link in ("https://a.test/secret", "https://a.test/secret/none", "https://secret.test/"):
                assert (await there.look(alice, link)).status == 200
        assert len(logs) == 3
        assert "secret" not in str(logs)
        assert "inside" not in str(logs)
