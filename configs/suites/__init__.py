"""Suites of tasks, for `experiments.leaderboard`."""
