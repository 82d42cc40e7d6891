"""Files of JSON lines, each an object with an id, that somebody else has written."""

import json
import math
from pathlib import Path
from typing import Any

from ptjax.config import UserError


def read_lines(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """(number of the line, what it holds), in order; empty lines are left out.

    Raises UserError: no such file; nothing in it; not UTF-8; a line that is no JSON object, or has NaN, an infinite
    number, half of a surrogate pair or no id; an id twice.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text (byte {error.start})") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    found, first = [], {}
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            record = json.loads(line, parse_constant=_finite, parse_float=_finite, parse_int=_integer)
            json.dumps(record, ensure_ascii=False).encode()
        except _NotFinite as error:
            raise UserError(f"{where}: {error} is not a finite number") from None
        except UnicodeEncodeError:
            raise UserError(f"{where}: it has half of a surrogate pair (\\ud800 to \\udfff), no character") from None
        except (ValueError, RecursionError):
            last = "" if text.endswith("\n") or number <= text.count("\n") else ", it seems cut off"
            raise UserError(f"{where}: not JSON{last}: {line[:60]!r}") from None
        if not isinstance(record, dict):
            raise UserError(f"{where}: a line is an object with an id, not {line[:60]!r}")
        name = record.get("id")
        if not isinstance(name, str):
            raise UserError(f"{where}: {'there is no id' if name is None else f'id {name!r} is not a text'}")
        if name in first:
            raise UserError(f"{where}: id {name!r} is in line {first[name]} already")
        first[name] = number
        found.append((number, record))
    if not found:
        raise UserError(f"{path} is empty")
    return found


class _NotFinite(Exception):
    pass


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):  # NaN, Infinity, 1e999
        raise _NotFinite(text[:60])
    return value


def _integer(text: str) -> int:
    _finite(text)
    return int(text)
