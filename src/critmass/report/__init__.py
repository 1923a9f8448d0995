"""Results -> a summary of numbers -> one self-contained page."""

from critmass.report.page import write_report
from critmass.report.summary import summary

__all__ = ["summary", "write_report"]
