"""Sources: where the clips come from."""

from __future__ import annotations

from harken.sources.audioset import AudioSet
from harken.sources.esc50 import Esc50
from harken.sources.folder import Folder
from harken.sources.source import Source
from harken.sources.synthetic import Synthetic
from harken.sources.table import Table
from harken.sources.uid_folder import UidFolder

__all__ = ["AudioSet", "Esc50", "Folder", "Source", "Synthetic", "Table", "UidFolder"]
