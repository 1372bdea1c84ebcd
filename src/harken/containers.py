"""What audio files say about their own length, read from a few of their bytes.

libsndfile silently shortens a WAV or Ogg file whose end is missing, and guesses the length of an
MP3 file that does not state it. These checks find both before anything is decoded.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

_UNKNOWN = 0x7FFFF000  # sizes from here on in a smaller file come from writers to pipes
_LARGEST_OGG_PAGE = 27 + 255 + 255 * 255
_ENDS_STREAM = 4  # flag of an Ogg page header


def is_cut_short(path: Path) -> bool:
    """Whether a WAV or Ogg file ends inside what its last header promises.

    A WAV file is cut when its data chunk (RIFF or RF64 sizes) reaches over the end of the file; an
    Ogg file when its last page is incomplete. An Ogg file cut exactly between two pages cannot be
    told from the recording of a live stream and passes. Other formats return False.
    """
    with path.open("rb") as file:
        magic = file.read(12)
        size = file.seek(0, 2)
        if magic[:4] in (b"RIFF", b"RF64") and magic[8:] == b"WAVE":
            return _wav_is_cut(file, size)
        if magic[:4] == b"OggS":
            file.seek(max(0, size - 2 * _LARGEST_OGG_PAGE))
            return _ogg_tail_is_cut(file.read())
    return False


def _wav_is_cut(file: BinaryIO, size: int) -> bool:
    position, long_size = 12, 0
    while position + 8 <= size:
        file.seek(position)
        name, length = struct.unpack("<4sI", file.read(8))
        if not name.isascii() or not name.decode("ascii").isprintable():
            return False  # chunks without their padding byte: libsndfile knows how to go on
        if name == b"ds64" and position + 24 <= size:
            long_size = struct.unpack("<QQ", file.read(16))[1]
        if name == b"data":
            if length == 0xFFFFFFFF and long_size:
                length = long_size
            elif length >= _UNKNOWN:
                return False
            return bool(position + 8 + length > size)
        position += 8 + length + length % 2
    return True  # there is no data chunk, or its header is beyond the end


def _ogg_tail_is_cut(tail: bytes) -> bool:
    page = tail.rfind(b"OggS")
    header = tail[page : page + 27]
    if page < 0 or len(header) < 27:
        return True
    segments = tail[page + 27 : page + 27 + header[26]]
    end = page + 27 + header[26] + sum(segments)
    if len(segments) < header[26] or end > len(tail):
        return True
    # After the page that ends the stream there may be tags; after any other only another page.
    return not header[5] & _ENDS_STREAM and end < len(tail)


def mp3_says_its_length(path: Path) -> bool:
    """Whether the first frame of an MP3 file is a Xing, Info or VBRI header with its length."""
    with path.open("rb") as file:
        head = file.read(10)
        start = 0
        if head[:3] == b"ID3" and len(head) == 10:
            # The size of an ID3v2 tag is stored in four bytes of seven bits.
            a, b, c, d = head[6:]
            start = 10 + (a << 21 | b << 14 | c << 7 | d)
        file.seek(start)
        first = file.read(2048)
    return any(word in first for word in (b"Xing", b"Info", b"VBRI"))
