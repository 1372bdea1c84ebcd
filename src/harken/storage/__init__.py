"""Files by name, wherever they are: local paths, and gs://, s3://, abfs://, memory:// URLs.

Everything here takes a `Location` and works alike on this machine and in a bucket. Writing is
atomic: a reader sees the old file or the new one. What is read from a bucket and kept lies in a
local cache of bounded size; what is written to a bucket leaves nothing behind here.
"""

from harken.storage.ahead import ReadAhead
from harken.storage.copies import cache_folder, local_copies, local_copy, recent_copy
from harken.storage.files import atomic_path, open_file, read_bytes, write_atomic
from harken.storage.full_disk import is_full
from harken.storage.listing import (
    entries,
    exists,
    is_file,
    is_folder,
    list_files,
    make_folder,
    remove_file,
    remove_folder,
)
from harken.storage.refusals import StoreError
from harken.storage.store_facts import Facts, asking, facts
from harken.storage.uploads import Uploads
from harken.storage.url import Location, Place, Url, is_local, join, local_path, place

__all__ = [
    "Facts",
    "Location",
    "Place",
    "ReadAhead",
    "StoreError",
    "Uploads",
    "Url",
    "asking",
    "atomic_path",
    "cache_folder",
    "entries",
    "exists",
    "facts",
    "is_file",
    "is_folder",
    "is_full",
    "is_local",
    "join",
    "list_files",
    "local_copies",
    "local_copy",
    "local_path",
    "make_folder",
    "open_file",
    "place",
    "read_bytes",
    "recent_copy",
    "remove_file",
    "remove_folder",
    "write_atomic",
]
