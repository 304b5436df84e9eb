"""The report of a run: its schema (`report.json`), its page (`report.html`) and its table on the terminal."""

from bitwright.report.html import build_html, write_html
from bitwright.report.schema import Report
from bitwright.report.terminal import print_result

__all__ = ["Report", "build_html", "print_result", "write_html"]
