"""HTML written from Python: elements that escape what they are given, and the page around them."""

import html
import json
import math
import re
from collections.abc import Iterable, Sequence
from importlib import resources
from typing import Any


VOID = {"br", "meta", "link"}
# Half of a surrogate pair, which UTF-8 cannot hold; control characters, which HTML forbids; what turns the direction of
# the text after it.
UNSPEAKABLE = re.compile("[\ud800-\udfff\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
SHAPES = {"line", "circle", "path", "use"}  # of SVG, where a slash closes an element


class Html(str):
    """Markup; any other string is text, which `element` escapes."""


def element(tag: str, *children: Any, **attributes: Any) -> Html:
    """<tag attributes>children</tag>. None among children and attributes is left out, lists of children are flattened.

    `class_` and `for_` lose their underscore, and others turn into dashes: aria_sort="none" is aria-sort="none".
    """
    words = [tag]
    for name, value in attributes.items():
        if value is not None and value is not False:
            name = name.rstrip("_").replace("_", "-")
            words.append(name if value is True else f'{name}="{html.escape(_text(value))}"')
    opening = f"<{' '.join(words)}>"
    if tag in VOID:
        return Html(opening)
    if tag in SHAPES and not children:
        return Html(f"{opening[:-1]}/>")
    return Html(f"{opening}{join(children)}</{tag}>")


def join(children: Iterable[Any]) -> Html:
    """Elements and texts, one after the other."""
    parts = []
    for child in children:
        if isinstance(child, Html):
            parts.append(child)
        elif isinstance(child, (list, tuple)):
            parts.append(join(child))
        elif child is not None:
            parts.append(html.escape(_text(child), quote=False))
    return Html("".join(parts))


def page(title: str, summary: Any, sections: Sequence[tuple[str, str, Any]], data: Any = None) -> str:
    """A whole page, its style and its script inside it, so that it works from a file and without a network.

    Args:
      summary: what stands below the title.
      sections: anchor, heading and content of each; those without content are left out.
      data: anything JSON; the page offers it for saving, to six digits. NaN and infinities become null.
    """
    files = resources.files("ptjax.report")
    style, script = ((files / name).read_text(encoding="utf-8") for name in ("style.css", "script.js"))
    # '<' is the only character that could end a script element or open a comment in it
    text = json.dumps(finite(data), ensure_ascii=True, separators=(",", ":")).replace("<", "\\u003c")
    policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("link", rel="icon", href="data:,"),  # or browsers look for one
        element("title", title),
        element("style", Html(style)),
    )
    sections = [section for section in sections if section[2]]
    links = [element("a", words, href=f"#{anchor}") for anchor, words, _ in sections]
    top = element("h1", title), element("p", summary, class_="summary"), element("nav", *links, aria_label="Sections")
    parts = [element("section", element("h2", words), content, id=anchor) for anchor, words, content in sections]
    main = element("main", element("header", *top), *parts)
    foot = element("script", Html(text), type="application/json", id="data"), element("script", Html(script))
    return "<!doctype html>\n" + element("html", head, element("body", main, *foot), lang="en") + "\n"


def definitions(pairs: Iterable[tuple[str, Any]], made: dict) -> Html:
    """Terms and what they mean, and below them what the page was made by."""
    versions = [f"{k} {made[k]}" for k in ("ptjax", "jax", "python") if made.get(k)]
    when = [str(made["date"])[:16].replace("T", " ")] if made.get("date") else []
    rows = [element("div", element("dt", term), element("dd", words)) for term, words in pairs]
    foot = element("footer", element("p", "Made by ", " · ".join(versions + when) or "ptjax"))
    return element("div", element("dl", *rows, class_="method"), foot)


def finite(value: Any) -> Any:
    """The same JSON to six digits, with null for every number that JSON has no word for."""
    if isinstance(value, dict):
        return {_text(key): finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return _text(value) if isinstance(value, str) else value


def _text(value: Any) -> str:
    return UNSPEAKABLE.sub("\ufffd", str(value))
