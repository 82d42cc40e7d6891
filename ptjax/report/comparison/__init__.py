"""comparison.json as a page and as Markdown."""

from ptjax.report.comparison.page import comparison_page

__all__ = ["comparison_page"]
