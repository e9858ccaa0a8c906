"""What is read in the heads of web pages, whoever wrote them."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeserver.media import pages
from homeserver.media.previews import LARGEST_PAGE

OPEN_GRAPH = """<!DOCTYPE html><html><head>
<title>Not this</title>
<META  Property = "og:title"  Content='Two &amp; "three"' />
<meta property="og:title" content="nor this">
<meta content="  A long
   day " name=description>
<meta property="og:image" content="/a.png"><meta property="og:image" content="/b.png">
<meta property="og:image:width" content="40"><meta property="og:image:height" content="many">
<meta property="og:site_name" content="A &lt;site&gt;">
<meta property="og:audio" content="https://a.test/x.mp3">
</head><body><meta property="og:type" content="nor that"></body></html>"""


def test_what_a_page_says_of_itself() -> None:
    assert pages.properties(OPEN_GRAPH) == {
        "og:title": 'Two & "three"',
        "og:description": "A long day",
        "og:site_name": "A <site>",
        "og:image": "/a.png",
        "og:image:width": "40",
    }


@pytest.mark.parametrize(
    ("page", "found"),
    [
        ("<title> One\n page </title>", {"og:title": "One page"}),
        ("<title></title><meta name='twitter:title' content='One'>", {"og:title": "One"}),
        ("<link rel='x image_src' href=a.png>", {"og:image": "a.png"}),
        ("<link rel=stylesheet href=a.css>", {}),
        ("<!-- <title>No</title> --><title>Yes</title>", {"og:title": "Yes"}),
        ("<script>'<title>No</title>'</script><title>Yes</title>", {"og:title": "Yes"}),
        ("<title>a <b>tag</b></TITLE><title>No</title>", {"og:title": "a <b>tag</b>"}),
        ("<meta property=og:title content='a > b'>", {"og:title": "a > b"}),
        ("1 < 2 <> <title>Yes</title>", {"og:title": "Yes"}),
        ("<meta property=og:title>", {}),
        ("<meta property=og:title content=' \u202e '>", {}),
        ("<meta property=og:title content='a\u202eb'>", {"og:title": "a b"}),
        ("<title>\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645</title>", {"og:title": "می\u200cخواهم"}),
        ("<title>cut off", {}),
        ("<meta property=og:title content='cut off", {}),
        ("<!-- cut off <title>No</title>", {}),
        ("", {}),
    ],
)
def test_odd_pages(page: str, found: dict[str, str]) -> None:
    assert pages.properties(page) == found


def test_long_texts_are_cut() -> None:
    found = pages.properties(
        f"<title>{'word ' * 1000}</title><meta name=description content='{'x' * 5000}'>"
        f"<meta property=og:image content='https://a.test/{'x' * 3000}'>"
    )
    assert len(found["og:title"]) <= pages.LONGEST_TITLE
    assert found["og:title"].endswith("word…")
    assert len(found["og:description"]) == pages.LONGEST_DESCRIPTION
    assert "og:image" not in found


@pytest.mark.parametrize(
    ("page", "content_type", "text"),
    [
        ("é".encode(), "text/html", "é"),
        ("é".encode("cp1252"), "text/html; charset=ISO-8859-1", "é"),
        ("€".encode("cp1252"), 'text/html; charset="us-ascii"', "€"),
        ("سلام".encode("cp1256"), "text/html;charset=windows-1256", "سلام"),
        (b"<meta charset=koi8-r>" + "да".encode("koi8-r"), "text/html", "<meta charset=koi8-r>да"),
        (
            b'<meta http-equiv=x content="text/html; charset=shift_jis">' + "日本".encode("shift_jis"),
            "text/html",
            '<meta http-equiv=x content="text/html; charset=shift_jis">日本',
        ),
        (b"\xef\xbb\xbf\xc3\xa9", "text/html; charset=koi8-r", "é"),
        ("é".encode("utf-16"), "text/html", "é"),
        (b"\xc3\xa9", "text/html; charset=nonsense", "é"),
        (b"\xc3\xa9", "text/html; charset=zlib_codec", "é"),
        (b"\xc3\xa9", "text/html; charset=punycode", "é"),
        (b"\xc3\xa9", "text/html; charset=unicode_escape", "é"),
        (b"a\xffb", "text/html; charset=utf-8", "a\ufffdb"),
    ],
)
def test_charsets(page: bytes, content_type: str, text: str) -> None:
    assert pages.decoded(page, content_type) == text


@given(st.binary(max_size=300), st.text(max_size=60))
def test_no_bytes_are_too_odd(page: bytes, charset: str) -> None:
    text = pages.decoded(b"<meta charset=" + page, f"text/html; charset={charset}")
    assert set(pages.properties(text + page.decode("latin-1"))) <= {"og:title", "og:description", "og:image"}


PIECES = [
    *(
        "<",
        "</",
        "<a ",
        "<a>",
        "<!--",
        "<!-->",
        "<script>",
        "<script></script x",
        "<svg></svg>",
        "<title>",
        "&amp",
        " = ",
    ),
    *("<meta x>", "<meta a='", '<meta a="\'" ', "<meta property=og:title content='&#", f"<meta {'a ' * 2000}>"),
    f"<meta property=og:title content='{'&a' * 2000}'>",
]


@pytest.mark.parametrize("piece", PIECES)
def test_no_page_costs_much(piece: str) -> None:
    page = piece * (LARGEST_PAGE // len(piece) + 1)
    started = time.thread_time()
    pages.properties(page)
    assert time.thread_time() - started < 0.5
