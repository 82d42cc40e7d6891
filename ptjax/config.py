"""Typed configs on `chz`: load a config file, apply `key=value` overrides, write and read JSON."""

import chz


class UserError(Exception):
    """A mistake that a user can mend. Mains print its message, without a traceback, and exit with status 2."""


@chz.chz
class Config:
    """Base of every config class. Building one reads no file and makes no array."""
