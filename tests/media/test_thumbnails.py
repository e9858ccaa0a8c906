"""Thumbnails, and the process that draws them."""

from __future__ import annotations

import asyncio
import os
import signal
import struct
import subprocess
import sys
import zlib
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from config.sections.media import SPEC_THUMBNAILS
from homeserver.media.thumbnails import IDLE, PROGRAM, SECONDS, Process, Studio, Wish, frame_for
from tests.deployment import SETTINGS, Deploy, Deployment
from tests.media.transfers import download_path, files_in, get, opened, picture, thumbnail_path, until, uploaded
from tests.support import aio

MOST = 32_000_000


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few hundred bytes that says it is that large."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(100_000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def moving(form: str) -> bytes:
    """Two frames, a red one and a blue one."""
    frames = [Image.new("RGB", (200, 200), colour) for colour in ("red", "blue")]
    output = BytesIO()
    frames[0].save(output, form, save_all=True, append_images=frames[1:], duration=100)
    return output.getvalue()


def studio(deployment: Deployment) -> Studio:
    return deployment.server.nodes.directory.memory(Studio)


@pytest.mark.parametrize(
    ("wish", "frame"),
    [
        ((1, 1, "crop"), (32, 32, "crop")),
        ((32, 32, "crop"), (32, 32, "crop")),
        ((33, 1, "crop"), (96, 96, "crop")),
        ((97, 97, "crop"), (320, 240, "scale")),
        ((1, 1, "scale"), (320, 240, "scale")),
        ((320, 241, "scale"), (640, 480, "scale")),
        ((800, 600, "scale"), (800, 600, "scale")),
        ((801, 600, "scale"), None),
        ((5000, 5000, "crop"), None),
    ],
)
def test_a_frame_covers_the_wish(wish: tuple[int, int, str], frame: tuple[int, int, str] | None) -> None:
    assert frame_for(SPEC_THUMBNAILS, Wish(*wish)) == frame


SIZES = [
    ((1000, 500), (32, 32, "crop"), (32, 32)),
    ((1000, 500), (90, 90, "crop"), (96, 96)),
    ((1000, 500), (300, 200, "scale"), (320, 160)),
    ((500, 1000), (300, 200, "scale"), (120, 240)),
    ((1000, 20), (90, 90, "crop"), (20, 20)),  # as much as the picture has
    ((3000, 1), (300, 200, "scale"), (320, 1)),
    ((200, 100), (300, 200, "scale"), (200, 100)),
    ((90, 40), (96, 96, "crop"), (90, 40)),
    ((1000, 900), (2000, 2000, "scale"), (1000, 900)),
]
"""The size of a picture, what is asked for, and what comes."""


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF"])
@aio
async def test_sizes(deployment: Deployment, form: str) -> None:
    alice = await deployment.user("alice")
    for size, wish, made in SIZES:
        content = picture(*size, form)
        media_id = await uploaded(alice, content, "image/whatever")
        path = thumbnail_path(media_id, width=wish[0], height=wish[1], method=wish[2])
        got = await get(alice, path)
        assert got.status == 200
        assert opened(got.body).size == made
        assert (got.body == content) == (made == size)
        assert got.content_type == (f"image/{form.lower()}" if made == size else "image/jpeg")
        kind = got.content_type.removeprefix("image/")
        assert got.headers["Content-Disposition"] == f'inline; filename="thumbnail.{kind}"'
        assert "sandbox" in got.headers["Content-Security-Policy"]
        kept = len(files_in(deployment, "tehran"))
        again = await get(alice, path)
        assert (again.body, again.content_type) == (got.body, got.content_type)
        assert len(files_in(deployment, "tehran")) == kept


@aio
async def test_a_thumbnail_is_drawn_once(deployment: Deployment) -> None:
    alice = await deployment.user("alice")
    for size in (500, 20):  # the small one serves as its own thumbnail
        path = thumbnail_path(await uploaded(alice, picture(size, size)), width=32, height=32)
        got = await get(alice, path)
        await studio(deployment).close()
        assert (await get(alice, path)).body == got.body
        assert not studio(deployment).running


@aio
async def test_a_crop_is_the_middle(deployment: Deployment) -> None:
    alice = await deployment.user("alice")
    media_id = await uploaded(alice, picture(1000, 100))
    got = await get(alice, thumbnail_path(media_id, width=96, height=96, method="crop"))
    image = opened(got.body).convert("RGB")
    left, right = image.getpixel((4, 48)), image.getpixel((91, 48))
    assert isinstance(left, tuple)
    assert isinstance(right, tuple)
    assert left[0] > 200 > 50 > left[2]
    assert right[2] > 200 > 50 > right[0]


@aio
async def test_transparency_and_orientation_and_privacy(deployment: Deployment) -> None:
    alice = await deployment.user("alice")
    clear = BytesIO()
    Image.new("RGBA", (500, 500), (0, 0, 0, 0)).save(clear, "PNG")
    got = await get(alice, thumbnail_path(await uploaded(alice, clear.getvalue()), width=32, height=32))
    assert got.content_type == "image/png"
    assert opened(got.body).convert("RGBA").getpixel((5, 5)) == (0, 0, 0, 0)

    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    exif[0x010E] = "a secret place"
    lying = picture(1000, 500, "JPEG", exif=exif)
    assert b"a secret place" in lying
    got = await get(alice, thumbnail_path(await uploaded(alice, lying), width=300, height=200))
    image = opened(got.body).convert("RGB")
    assert image.size == (120, 240)
    top, bottom = image.getpixel((60, 20)), image.getpixel((60, 220))
    assert isinstance(top, tuple)
    assert isinstance(bottom, tuple)
    assert top[0] > bottom[0]
    assert b"a secret place" not in got.body


@pytest.mark.parametrize("form", ["GIF", "PNG", "WEBP"])
@aio
async def test_nothing_moves(deployment: Deployment, form: str) -> None:
    alice = await deployment.user("alice")
    content = moving(form)
    assert getattr(opened(content), "is_animated", False)
    media_id = await uploaded(alice, content)
    for width, height in ((32, 32), (300, 200), (900, 900)):  # smaller, as large as it is, and larger
        got = await get(alice, thumbnail_path(media_id, width=width, height=height, animated="false"))
        assert got.status == 200
        assert not getattr(opened(got.body), "is_animated", False)


NO_PICTURES = [
    (os.urandom(5000), "application/octet-stream"),  # as an encrypted attachment looks
    (os.urandom(5000), "image/png"),
    (b"", "image/png"),
    (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "image/svg+xml"),
    (picture(300, 300)[:200], "image/png"),
    (picture(300, 300, "JPEG")[:300], "image/jpeg"),
    (picture(300, 300, "WEBP")[:50], "image/webp"),
    (b"\x89PNG\r\n\x1a\n" + bytes(range(256)), "image/png"),
    (b"\xff\xd8\xff" + bytes(range(256)), "image/jpeg"),
    (b"GIF89a" + bytes(range(256)), "image/gif"),
    (picture(300, 300, "BMP"), "image/bmp"),
    (bomb(500, 500), "image/png"),
]


@aio
async def test_no_picture(deployment: Deployment) -> None:
    alice = await deployment.user("alice")
    good = thumbnail_path(await uploaded(alice, picture(300, 300)), width=32, height=32)
    for content, content_type in NO_PICTURES:
        media_id = await uploaded(alice, content, content_type)
        got = await get(alice, thumbnail_path(media_id, width=32, height=32))
        assert (got.status, got.errcode) == (400, "M_UNKNOWN"), content_type
        assert (await get(alice, download_path(media_id))).body == content
        assert (await get(alice, good)).status == 200


@aio
async def test_bombs(deploy: Deploy) -> None:
    deployment = await deploy(settings=f"{SETTINGS}\n[media]\nmax_pixels = 1_000_000\n")
    alice = await deployment.user("alice")
    for content in (bomb(60_000, 60_000), bomb(2**31 - 1, 1), picture(1001, 1000), picture(1001, 1000, "JPEG")):
        media_id = await uploaded(alice, content, "image/png")
        for width in (32, 5000):
            got = await get(alice, thumbnail_path(media_id, width=width, height=32))
            assert (got.status, got.errcode) == (413, "M_TOO_LARGE")
    media_id = await uploaded(alice, picture(1000, 1000), "image/png")
    assert (await get(alice, thumbnail_path(media_id, width=32, height=32))).status == 200


REFUSED: list[tuple[dict[str, object], str]] = [
    ({}, "M_MISSING_PARAM"),
    ({"width": 5}, "M_MISSING_PARAM"),
    ({"height": 5}, "M_MISSING_PARAM"),
    ({"width": 0, "height": 5}, "M_INVALID_PARAM"),
    ({"width": -5, "height": 5}, "M_INVALID_PARAM"),
    ({"width": "5.5", "height": 5}, "M_INVALID_PARAM"),
    ({"width": 5, "height": 5, "method": "stretch"}, "M_INVALID_PARAM"),
    ({"width": 5, "height": 5, "animated": "maybe"}, "M_INVALID_PARAM"),
    ({"width": 5, "height": 5, "timeout_ms": -1}, "M_INVALID_PARAM"),
]


@aio
async def test_what_is_refused(deployment: Deployment) -> None:
    alice = await deployment.user("alice")
    media_id = await uploaded(alice, picture(100, 100), "image/png")
    for query, errcode in REFUSED:
        got = await get(alice, thumbnail_path(media_id, **query))
        assert (got.status, got.errcode) == (400, errcode), query


# -- the process


@aio
async def test_one_process_draws_once(deployment: Deployment) -> None:
    alice = await deployment.user("alice")
    assert not studio(deployment).running
    media_id = await uploaded(alice, picture(500, 500))
    paths = [thumbnail_path(media_id, width=size, height=size, method="crop") for size in (20, 25, 32, 40, 96)]
    got = await asyncio.gather(*(get(alice, path) for path in paths))
    assert {answer.status for answer in got} == {200}
    assert len(files_in(deployment, "tehran")) == 3  # the medium, and two sizes


@aio
async def test_the_process_rests_when_there_is_nothing_to_draw(deployment: Deployment) -> None:
    alice = await deployment.user("alice")
    media_id = await uploaded(alice, picture(500, 500))
    await get(alice, thumbnail_path(media_id, width=32, height=32))
    assert studio(deployment).running
    await deployment.clock.advance(IDLE + 1)
    assert not studio(deployment).running
    assert (await get(alice, thumbnail_path(media_id, width=640, height=480))).status == 200


@aio
async def test_a_client_that_leaves_stops_nobody(deployment: Deployment) -> None:
    alice = await deployment.user("alice")
    media_id = await uploaded(alice, picture(500, 500))
    path = thumbnail_path(media_id, width=32, height=32)
    leaving, staying = (asyncio.ensure_future(get(alice, path)) for _ in range(2))
    await until(lambda: studio(deployment).running)
    leaving.cancel()
    assert (await staying).status == 200


@aio
async def test_a_drawing_that_takes_too_long_is_ended(deployment: Deployment, tmp_path: Path) -> None:
    program = tmp_path / "slow.py"
    begun = tmp_path / "begun"
    program.write_text(f"import signal, pathlib; pathlib.Path({str(begun)!r}).touch(); signal.pause()")
    alice = await deployment.user("alice")
    media_id = await uploaded(alice, picture(500, 500))
    path = thumbnail_path(media_id, width=32, height=32)
    studio(deployment).program = program
    asking = asyncio.ensure_future(get(alice, path))
    await until(lambda: begun.exists() and deployment.clock.waiting > 0)
    await deployment.clock.advance(SECONDS)
    assert (await asking).errcode == "M_UNKNOWN"
    studio(deployment).program = PROGRAM
    assert (await get(alice, path)).status == 200


@aio
async def test_a_process_that_died_is_replaced(deployment: Deployment, tmp_path: Path) -> None:
    program = tmp_path / "dying.py"
    program.write_text("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    alice = await deployment.user("alice")
    media_id = await uploaded(alice, picture(500, 500))
    path = thumbnail_path(media_id, width=32, height=32)
    studio(deployment).program = program
    assert (await get(alice, path)).errcode == "M_UNKNOWN"
    studio(deployment).program = PROGRAM
    assert (await get(alice, path)).status == 200


def test_the_process_can_open_nothing() -> None:
    """Once it has started, whoever has taken it over by a picture finds no file, no socket and no program."""
    attempts = """
for name, attempt in (
    ("file", lambda: open("/etc/hostname")),
    ("socket", lambda: __import__("socket").socket()),
    ("memory", lambda: bytearray(700_000_000)),
):
    try:
        attempt()
    except (OSError, MemoryError, ImportError) as error:
        print(name, "refused")
    else:
        print(name, "had")
"""
    for confined in (False, True):
        start = f"import socket, sys; sys.path.insert(0, {str(PROGRAM.parent)!r}); import drawing; drawing.rehearse()"
        script = "\n".join((start, "drawing.confine(600_000_000)" if confined else "", attempts))
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, text=True)
        said = done.stdout.split()
        assert said == [
            word for name in ("file", "socket", "memory") for word in (name, "refused" if confined else "had")
        ]


def test_a_process_whose_server_is_gone_does_not_draw_for_ever() -> None:
    start = f"import sys; sys.path.insert(0, {str(PROGRAM.parent)!r}); import drawing"
    endless = "def answer(*args):\n    while True:\n        pass"
    script = "\n".join((start, "drawing.SECONDS = 1", endless, "drawing.answer = answer"))
    script += "\ndrawing.serve(sys.stdin.buffer, sys.stdout.buffer)"
    request = b'{"size": 1, "frame": null, "most": 1}\nx'
    done = subprocess.run([sys.executable, "-c", script], input=request, check=False, timeout=30)
    assert done.returncode == -signal.SIGALRM


def test_the_process_ends_with_its_input() -> None:
    process = Process(PROGRAM, MOST)
    child = process._child
    assert process.draw(picture(200, 200), Wish(32, 32, "crop"), MOST).outcome == "made"
    assert child.stdin is not None
    child.stdin.close()
    assert child.wait(30) == 0
    process.close()
