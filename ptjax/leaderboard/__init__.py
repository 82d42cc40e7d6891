"""Leaderboards: many tasks, models fine-tuned alike, scores with intervals, a ranking."""

from ptjax.leaderboard.suite import Suite

__all__ = ["Suite"]
