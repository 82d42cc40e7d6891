"""Where pieces stand in the text that they were made of. Spans are [start, stop), in characters (code points)."""

import collections
import itertools
import re
import unicodedata
from collections.abc import Sequence

import numpy as np


SPACE = "\u2581"  # how SentencePiece writes a space inside a piece


class Aligned:
    """A text that was changed, each of whose characters knows its place in the original.

    text: as it is now. places: of each character the place that it, or the first of those it replaces, had; and behind
    the last, the original's length.
    """

    def __init__(self, text: str):
        self.text, self.places = text, list(range(len(text) + 1))

    def _put(self, parts: Sequence[tuple[str, int]]) -> None:
        """Makes the text of parts; each part's characters all stand at this place of the text as it was."""
        self.text = "".join(part for part, _ in parts)
        self.places = [self.places[place] for part, place in parts for _ in part] + self.places[-1:]

    def replace(self, pattern: str, by: str) -> None:
        found = {match.start(): match.end() for match in re.finditer(pattern, self.text)}
        parts, place = [], 0
        while place < len(self.text):
            parts.append((by if place in found else self.text[place], place))
            place = found.get(place, place + 1)
        self._put(parts)

    def rstrip(self) -> None:
        self._put([(c, place) for place, c in enumerate(self.text.rstrip())])

    def lower(self) -> None:
        """str.lower looks at neighbours (the Greek sigma), but they do not change how long a character becomes."""
        lower, ends = self.text.lower(), itertools.accumulate((len(c.lower()) for c in self.text), initial=0)
        self._put([(lower[start:stop], i) for i, (start, stop) in enumerate(itertools.pairwise(ends))])

    def decompose(self) -> None:
        """NFKD without combining characters, whose order is all that neighbours decide."""
        parts = [unicodedata.normalize("NFKD", c) for c in self.text]
        self._put([("".join(c for c in part if not unicodedata.combining(c)), i) for i, part in enumerate(parts)])

    def compose(self) -> None:
        """NFC, of each stretch of characters that change together."""
        whole = unicodedata.normalize("NFC", self.text)
        if whole == self.text:
            return
        starts, composed = [0], ""
        for place, c in enumerate(self.text):
            stretch = unicodedata.normalize("NFC", self.text[starts[-1] : place + 1])
            if place and not unicodedata.combining(c) and stretch == composed + unicodedata.normalize("NFC", c):
                starts.append(place)
                stretch = unicodedata.normalize("NFC", c)
            composed = stretch
        stretches = itertools.pairwise([*starts, len(self.text)])
        parts = [(unicodedata.normalize("NFC", self.text[start:stop]), start) for start, stop in stretches]
        self._put(parts if "".join(part for part, _ in parts) == whole else [(whole, 0)])


def normalised_spans(stretches: Sequence[tuple[int, int]], places: Sequence[int]) -> np.ndarray:
    """int32[n, 2]: the originals of stretches [start, stop) of a normalised text. places: as `Aligned` has them; what
    was one character of the original belongs to all that it has become."""
    follows, later = [0] * len(places), places[-1]  # the next place that is another one
    for k in range(len(places) - 2, -1, -1):
        later = places[k + 1] if places[k + 1] > places[k] else later
        follows[k] = later
    spans = [(places[a], follows[b - 1]) if a < b else (places[a], places[a]) for a, b in stretches]
    return np.array(spans, np.int32).reshape(-1, 2)


def tidied(text: str, spans: np.ndarray, blank: Sequence[bool]) -> np.ndarray:
    """The spans of `Tokenizer.encode_offsets`, from those that a library gives. blank: of pieces that are but space."""
    tidy: list[list[int]] = []
    for (start, stop), is_blank in zip(spans.tolist(), blank):
        said = text[start:stop]
        inner = said.strip()
        if not inner:
            tidy.append([start, stop])
        # The space that tokenizers put before a text: neither the sign that looks so, nor part of a character that
        # becomes several words.
        elif is_blank and inner.strip(SPACE) and not (tidy and tidy[-1][1] > start):
            tidy.append([start, start])
        else:
            start += len(said) - len(said.lstrip())
            tidy.append([start, start + len(inner)])
    covered = np.zeros(len(text) + 1, bool)
    for start, stop in tidy:
        covered[start:stop] = True
    left_out = [not (covered[i] or c.isspace()) for i, c in enumerate(text)] + [False]
    if any(left_out):
        _adopt(left_out, [span for span in tidy if text[span[0] : span[1]].strip()])
        for (_, stop), span in itertools.pairwise(tidy):
            if span[0] == span[1] < stop:
                span[:] = stop, stop
        for (start, _), span in itertools.pairwise(tidy[::-1]):
            if span[0] == span[1] > start:
                span[:] = start, start
    return np.array(tidy, np.int32).reshape(-1, 2)


def _adopt(left_out: Sequence[bool], spans: Sequence[list[int]]) -> None:
    """Gives each run of characters that normalising left out to the pieces that end before it, else to those that begin
    behind it. Changes spans."""
    ends, begins = collections.defaultdict(list), collections.defaultdict(list)
    for span in spans:
        ends[span[1]].append(span)
        begins[span[0]].append(span)
    edges = [place for place, (before, now) in enumerate(itertools.pairwise([False, *left_out])) if before != now]
    for start, stop in zip(edges[::2], edges[1::2]):
        for span in ends[start]:
            span[1] = stop
        for span in begins[stop] if not ends[start] else ():
            span[0] = start
