"""What one colour stands for."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ptjax.report.html import Html, element

COLORS = 7  # of Okabe and Ito's; series beyond them are grey, and named when pointed at


@dataclass(frozen=True)
class Series:
    """A submission, an arm: the same colour on the whole page. Without an index it is none of them, in ink."""

    index: int | None
    name: str

    @property
    def color(self) -> str:
        return "ink" if self.index is None else f"c{min(self.index, COLORS)}"

    @property
    def attributes(self) -> dict[str, Any]:
        """Of the element that shows it: its colour, and data-s, by which the script finds all that belongs together."""
        return {"class_": self.color, "data_s": self.index}

    def who(self, note: str | None = None) -> Html:
        """As the name of a row: its swatch, its name, a note below."""
        inside = [element("i", class_="swatch"), element("span", self.name, class_="name", title=self.name)]
        return element("span", *inside, note and element("span", note, class_="sub", title=note), class_="who")

    def key(self) -> Html:
        """Its swatch and its name."""
        swatch, name = element("i", class_="swatch"), element("span", self.name, class_="name")
        return element("span", swatch, name, class_=f"key {self.color}", data_s=self.index, title=self.name)


def legend(series: Sequence[Series]) -> Html:
    """Colours and names; pointing at one picks it out of the charts."""
    keys = element("ul", *(element("li", one.key()) for one in series), class_="legend")
    if all(one.index is None or one.index < COLORS for one in series):
        return keys
    note = f"The first {COLORS} have a colour, the others are grey. Point at a name or a line to pick one out."
    return element("div", keys, element("p", note, class_="note"))
