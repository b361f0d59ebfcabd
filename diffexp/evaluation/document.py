"""What a report says, before anybody writes it: blocks that `markdown.py` and `page.py` (HTML) write out.

A plain string is a paragraph. Text is Markdown as far as these go: `code`, **bold**, *emphasis*, [words](address).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diffexp.evaluation.chart import Chart


@dataclass(frozen=True)
class Heading:
    """A heading; level 1 is the title of the page."""

    level: int
    text: str


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        header: names of the columns.
        rows: as many cells in each as there are columns.
        words: how many of the first columns are text, the others are numbers; None: all are.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: int | None = None


@dataclass(frozen=True)
class Code:
    """Lines to be copied."""

    text: str


@dataclass(frozen=True)
class Item:
    """A bullet, and the command that belongs to it, if any."""

    text: str
    command: str = ""


@dataclass(frozen=True)
class Figure:
    """A chart: drawn into the page itself, and as files beside it.

    Attributes:
        chart: what is drawn.
        files: names in the report's folder; the first one is a PNG.
    """

    chart: Chart
    files: Sequence[str]


@dataclass(frozen=True)
class Picture:
    """Images that lie beside the report as PNG.

    Attributes:
        file: its name in the report's folder.
        alt: what it shows, in a few words.
        run: which run's it is, where several are reported.
    """

    file: str
    alt: str
    run: str = ""


MARKS = re.compile(
    r"`(?P<code>[^`]+)`|\*\*(?P<bold>.+?)\*\*|\*(?P<em>[^*\s][^*]*)\*|\[(?P<link>[^\]]+)\]\((?P<to>[^)\s]+)\)"
)
"""The marks of a text, each with its name."""

Block = str | Heading | Table | Code | Item | Figure | Picture


def plain(text: str) -> str:
    """A text without its marks."""
    return MARKS.sub(lambda found: found["code"] or found["bold"] or found["em"] or found["link"], text)
