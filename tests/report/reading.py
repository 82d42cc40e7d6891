"""A page as a test reads it: strictly, without a browser."""

from html.parser import HTMLParser

VOID = {"meta", "link", "br", "img", "input"}


class Node:
    def __init__(self, tag: str, attributes: dict[str, str | None]):
        self.tag, self.attributes, self.children = tag, attributes, []

    @property
    def classes(self) -> list[str]:
        return (self.attributes.get("class") or "").split()

    def text(self) -> str:
        """What is read, names of drawings aside."""
        parts = [c if isinstance(c, str) else "" if c.tag == "title" else c.text() for c in self.children]
        return "".join(parts).replace("\u00a0", " ")

    def all(self, tag: str | None = None, kind: str | None = None) -> list["Node"]:
        found = []
        for child in self.children:
            if isinstance(child, Node):
                if tag in (None, child.tag) and (kind is None or kind in child.classes):
                    found.append(child)
                found += child.all(tag, kind)
        return found

    def one(self, tag: str | None = None, kind: str | None = None) -> "Node":
        (found,) = self.all(tag, kind)
        return found

    def section(self, name: str) -> "Node":
        (found,) = [s for s in self.all("section") if s.attributes["id"] == name]
        return found


class _Reader(HTMLParser):
    def __init__(self):
        super().__init__()
        self.root = Node("", {})
        self.open = [self.root]

    def handle_starttag(self, tag, attributes):
        names = [name for name, _ in attributes]
        assert len(names) == len(set(names)), (tag, names)
        node = Node(tag, dict(attributes))
        self.open[-1].children.append(node)
        if tag not in VOID:
            self.open.append(node)

    def handle_startendtag(self, tag, attributes):
        assert tag in ("line", "circle", "path", "use"), f"<{tag}/> is not closed in HTML"
        self.open[-1].children.append(Node(tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open[-1].tag == tag, f"</{tag}> closes <{self.open[-1].tag}>"
        self.open.pop()

    def handle_data(self, data):
        self.open[-1].children.append(data)


def read_page(page: str) -> Node:
    """The tree of a page in which every element is closed where it should be."""
    reader = _Reader()
    reader.feed(page)
    reader.close()
    assert reader.open == [reader.root]
    return reader.root
