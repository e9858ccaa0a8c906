"""Makes thumbnails, as a program of its own: ``python drawing.py MEMORY``, MEMORY in bytes.

Decoders of pictures have had many holes, and pictures come from anybody. So they are decoded by a process that, once
it has started, can open no file, start no process, and have no more memory than it was given; it only gets pictures on
its standard input and gives thumbnails on its standard output. It imports nothing of ours, and ends with its input.

A request is a line of JSON, ``{"size", "frame": [width, height, method] or null, "most": pixels}``, and ``size`` bytes
of a picture. The answer is a line of JSON, ``{"outcome", "content_type", "size"}``, and ``size`` bytes. Outcomes:
``made``; ``whole``: the picture itself will do; ``large``: it has too many pixels; ``failed``: it cannot be read.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from io import BytesIO
from typing import Any, BinaryIO

from PIL import GifImagePlugin, Image, JpegImagePlugin, MpoImagePlugin, PngImagePlugin, TiffImagePlugin, WebPImagePlugin

# What is imported above must not be imported later, when no file can be opened: plugins, and what EXIF is read with.
PLUGINS = (GifImagePlugin, JpegImagePlugin, MpoImagePlugin, PngImagePlugin, TiffImagePlugin, WebPImagePlugin)
FORMATS = ("JPEG", "PNG", "GIF", "WEBP")
SERVED = {"JPEG": "image/jpeg", "PNG": "image/png", "GIF": "image/gif", "WEBP": "image/webp"}
"""Pictures that may be served in place of a thumbnail. spec: client-server-api/#thumbnails"""
SECONDS = 30
"""After which the process ends itself: longer than the server waits, for when there is no server any more."""
ORIENTATION = 0x0112
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""How to turn a picture by its EXIF orientation."""

Frame = tuple[int, int, str]


def answer(picture: bytes, frame: Frame | None, most: int) -> tuple[str, str, bytes]:
    """Outcome, content type, and the bytes of the thumbnail."""
    with Image.open(BytesIO(picture), formats=FORMATS) as image:
        if image.width * image.height > most:  # before anything asks for more than the head
            return "large", "", b""
        turn = UPRIGHT.get(image.getexif().get(ORIENTATION, 1))
        turned = turn is not None and turn not in (
            Image.Transpose.FLIP_LEFT_RIGHT,
            Image.Transpose.ROTATE_180,
            Image.Transpose.FLIP_TOP_BOTTOM,
        )
        if frame is not None and turned:
            frame = (frame[1], frame[0], frame[2])
        target = image.size if frame is None else target_of(image.size, frame)
        if target == image.size and image.format in SERVED and not getattr(image, "is_animated", False):
            return "whole", SERVED[image.format], b""
        small = reduced(image, target)
        return "made", *encoded(small if turn is None else small.transpose(turn))


def target_of(size: tuple[int, int], frame: Frame) -> tuple[int, int]:
    """The size of the thumbnail of a picture: never more than the picture has.

    ``scale`` fits the whole picture into the frame; ``crop`` fills the frame with its middle.
    """
    width, height, method = frame
    if size[0] <= width and size[1] <= height:
        return size
    if method == "scale":
        ratio = min(width / size[0], height / size[1])
        return max(1, round(size[0] * ratio)), max(1, round(size[1] * ratio))
    middle = middle_of(size, (width, height))
    ratio = min(1.0, width / middle[0])
    return max(1, round(middle[0] * ratio)), max(1, round(middle[1] * ratio))


def middle_of(size: tuple[int, int], shape: tuple[int, int]) -> tuple[float, float]:
    """Width and height of the largest part of a picture that has the shape."""
    if size[0] * shape[1] > size[1] * shape[0]:
        return size[1] * shape[0] / shape[1], float(size[1])
    return float(size[0]), size[0] * shape[1] / shape[0]


def reduced(image: Image.Image, target: tuple[int, int]) -> Image.Image:
    """The middle of the picture that has the shape of ``target``, in that size."""
    width, height = middle_of(image.size, target)
    full = (round(target[0] * image.width / width), round(target[1] * image.height / height))
    image.draft("RGB", full)  # a JPEG is decoded no larger than is needed
    plain = image.convert("RGBA" if image.has_transparency_data else "RGB")
    if plain.size == target:
        return plain
    width, height = middle_of(plain.size, target)
    left, top = (plain.width - width) / 2, (plain.height - height) / 2
    box = (left, top, left + width, top + height)
    return plain.resize(target, Image.Resampling.LANCZOS, box=box, reducing_gap=2.0)


def encoded(image: Image.Image) -> tuple[str, bytes]:
    """Content type and bytes; nothing of the picture's metadata (the place where it was taken) is in them."""
    output = BytesIO()
    image.info.clear()
    if image.mode == "RGBA":
        image.save(output, "PNG")
        return "image/png", output.getvalue()
    image.save(output, "JPEG", quality=80)
    return "image/jpeg", output.getvalue()


def rehearse() -> None:
    """Read and write each format once, so that whatever is loaded at first use is loaded."""
    for name in ("JPEG", "PNG", "GIF", "WEBP"):
        for mode in ("RGB", "RGBA"):
            picture = BytesIO()
            Image.new("RGB" if name == "JPEG" else mode, (9, 8)).save(picture, name)
            answer(picture.getvalue(), (4, 4, "crop"), 100)


def confine(memory: int) -> None:
    """Give up what is not needed for drawing."""
    os.nice(10)
    for kind, most in (
        (resource.RLIMIT_NOFILE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_AS, memory),
    ):
        resource.setrlimit(kind, (most, most))


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer until the input ends."""
    while line := requests.readline():
        request: dict[str, Any] = json.loads(line)
        signal.alarm(SECONDS)
        try:
            picture = requests.read(request["size"])
            frame = request["frame"]
            outcome, content_type, content = answer(picture, None if frame is None else tuple(frame), request["most"])
        except MemoryError:
            outcome, content_type, content = "large", "", b""
        except Exception:  # decoders raise whatever they like
            outcome, content_type, content = "failed", "", b""
        signal.alarm(0)
        head = {"outcome": outcome, "content_type": content_type, "size": len(content)}
        answers.write(json.dumps(head).encode() + b"\n" + content)
        answers.flush()


if __name__ == "__main__":
    Image.MAX_IMAGE_PIXELS = None  # each request says how many
    rehearse()
    confine(int(sys.argv[1]))
    serve(sys.stdin.buffer, sys.stdout.buffer)
