"""Whose folder it is."""

import json
from pathlib import Path

from ptjax.checkpoint import CONFIG
from ptjax.config import Config


def other_owner(workdir: Path, kind: type[Config]) -> str | None:
    """What else lives in a folder that is to be one of this kind of config."""
    try:
        owner = json.loads((workdir / CONFIG).read_text())[""].rpartition(":")[2]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return "something else"
    return None if owner == kind.__name__ else f"another kind of run ({owner})"
