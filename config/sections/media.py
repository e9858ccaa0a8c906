"""Uploaded files, their thumbnails, and previews of links."""

from dataclasses import dataclass
from typing import Annotated, Literal

from config.forms import DAY, MiB
from config.kinds import Choice, Duration, Flag, Integer, Size, Span
from config.tables import Setting, TablesOf


@dataclass(frozen=True, slots=True, kw_only=True)
class Thumbnail:
    """A size in which thumbnails are made. `crop` fills the frame, `scale` fits into it."""

    width: Annotated[int, Setting(Integer(1, 4096), "Width of the frame, in pixels.")]
    height: Annotated[int, Setting(Integer(1, 4096), "Height of the frame, in pixels.")]
    method: Annotated[Literal["crop", "scale"], Setting(Choice(("crop", "scale")), "How the picture is put in it.")]


# spec: client-server-api/#thumbnails
SPEC_THUMBNAILS = (
    Thumbnail(width=32, height=32, method="crop"),
    Thumbnail(width=96, height=96, method="crop"),
    Thumbnail(width=320, height=240, method="scale"),
    Thumbnail(width=640, height=480, method="scale"),
    Thumbnail(width=800, height=600, method="scale"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Media:
    """Uploaded files. Attachments of encrypted rooms are ciphertext here; only avatars and such can be looked into."""

    max_upload: Annotated[int, Setting(Size(), "The biggest file that a user may upload.")] = 100 * MiB
    max_download: Annotated[int, Setting(Size(), "The biggest file that is fetched from another server.")] = 100 * MiB
    max_pixels: Annotated[
        int,
        Setting(Integer(1, 10**9), "Pictures with more pixels get no thumbnail: unpacked they would fill the memory."),
    ] = 32_000_000
    thumbnails: Annotated[
        tuple[Thumbnail, ...],
        Setting(TablesOf(Thumbnail), "Sizes of thumbnails, the specification's when none is named."),
    ] = SPEC_THUMBNAILS
    pending_lifetime: Annotated[
        Duration, Setting(Span(), "How long a content URI that was made before its upload waits for it.")
    ] = DAY
    pending_uploads: Annotated[int, Setting(Integer(1, 10_000), "How many of those one user may have.")] = 10
    user_files: Annotated[
        int | None,
        Setting(Integer(1), "How many files one user may have uploaded; any number when it is not set.", 10_000),
    ] = None
    user_bytes: Annotated[
        int | None,
        Setting(Size(), "How many bytes in all; as many as there is room for when it is not set.", 10 * 1024 * MiB),
    ] = None
    url_previews: Annotated[
        bool,
        Setting(
            Flag(),
            "Whether the server fetches pages for previews of links. With it, clients that ask for them tell the server"
            " which links stand in their rooms, encrypted ones too, and the pages learn that somebody here has looked.",
        ),
    ] = False
