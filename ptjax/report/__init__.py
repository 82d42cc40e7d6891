"""Pages that show results: one HTML file each, which asks nothing of any server."""

from ptjax.report.leaderboard import leaderboard_page

__all__ = ["leaderboard_page"]
