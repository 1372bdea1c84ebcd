"""The report: one self-contained page made from the files of a run folder."""

from harken.report.page import build

__all__ = ["build"]
