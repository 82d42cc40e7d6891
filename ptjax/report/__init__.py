"""Pages that show results: one HTML file each, which asks nothing of any server; a comparison as Markdown too."""

from ptjax.report.comparison import comparison_page
from ptjax.report.leaderboard import leaderboard_page
from ptjax.report.markdown import comparison_markdown

__all__ = ["comparison_markdown", "comparison_page", "leaderboard_page"]
