"""Records of runs, and the page that shows one."""

from __future__ import annotations

from secateur.report.page import render, write
from secateur.report.record import RunRecord

__all__ = ["RunRecord", "render", "write"]
