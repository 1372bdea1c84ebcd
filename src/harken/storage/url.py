"""One name for files and folders on this machine and in buckets."""

from __future__ import annotations

import os
import re
from pathlib import Path

from harken.errors import ConfigError

_LOST_SLASH = re.compile("(gs|gcs|s3|abfs|abfss|az|memory):/")


class Url:
    """A file or folder in a bucket, with as much of pathlib's grammar as run folders need.

    It is no `os.PathLike`: `Path("gs://bucket/a")` would silently be the local folder `gs:`.
    """

    def __init__(self, text: str) -> None:
        self._text = text.rstrip("/")

    def __truediv__(self, name: str) -> Url:
        return Url(join(self._text, name))

    def __str__(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return f"Url({self._text!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Url) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)

    @property
    def name(self) -> str:
        """The last part."""
        return self._text.rpartition("/")[2]

    @property
    def parent(self) -> Url:
        """The folder that it is in."""
        return Url(self._text.rpartition("/")[0])


Place = Path | Url
"""Where a file or folder is: on this machine or in a bucket."""

Location = str | os.PathLike[str] | Url
"""What a person may give for it."""


def place(url: Location) -> Place:
    """Return a location as something that `/` goes down from."""
    return local_path(url) if is_local(url) else Url(str(url))


def is_local(url: Location) -> bool:
    """Whether `url` is a path of this machine."""
    text = str(url)
    return "://" not in text or text.startswith("file://")


def join(base: Location, *parts: str) -> str:
    """Join names to a folder; a part that is absolute or a URL starts anew."""
    joined = str(base)
    for part in parts:
        fresh = "://" in part or os.path.isabs(part) or not joined
        joined = part if fresh else f"{joined.rstrip('/')}/{part}"
    return joined


def local_path(url: Location) -> Path:
    """Return a local URL as a path; `~` is the user's home.

    Raises:
        ConfigError: pathlib has taken a slash from what was the URL of a bucket.
    """
    text = str(url).removeprefix("file://")
    if _LOST_SLASH.match(text):
        raise ConfigError(
            "this was a URL before pathlib took it for a path",
            where=text,
            fix="give it as text, or as harken.storage.Url",
        )
    return Path(text).expanduser()


def protocol_of(url: Location) -> str:
    """Return what stands before `://`."""
    return str(url).partition("://")[0]


def bucket_of(url: Location) -> str:
    """Return the bucket's own URL; for `abfs://container@account…` that is the container's."""
    protocol, _, rest = str(url).partition("://")
    return f"{protocol}://{rest.partition('/')[0]}"
