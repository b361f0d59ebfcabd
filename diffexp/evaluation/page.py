"""A report as one HTML file: no scripts, no other files, nothing fetched; legible in print, in the dark, on a phone."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator, Sequence
from html import escape
from itertools import groupby
from pathlib import Path

import numpy as np

from diffexp.core.errors import DiffexpError
from diffexp.evaluation import vector
from diffexp.evaluation.document import MARKS, Block, Code, Figure, Heading, Item, Picture, Table, plain
from diffexp.evaluation.grid import read_grid

_STYLE = Path(__file__).with_name("page.css")
_WIDE, _NARROW = 760, 358  # pixels of a chart: in a window, and on a phone of 390 pixels
_LARGEST = 112  # pixels of an image in a page; the files beside it have all of them
_SMALL = 64  # up to this many pixels an image is enlarged as squares
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def page(blocks: Sequence[Block], folder: Path) -> str:
    """Blocks as HTML; pictures are read from `folder` and embedded."""
    title = next((plain(block.text) for block in blocks if isinstance(block, Heading) and block.level == 1), "Report")
    head = [
        "<!doctype html>", '<html lang="en">', "<head>", '<meta charset="utf-8">', f"<title>{escape(title)}</title>",
        f'<meta http-equiv="Content-Security-Policy" content="{escape(_POLICY)}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<style>\n{_STYLE.read_text(encoding='utf-8')}</style>", "</head>", "<body>", "<main>",
    ]  # fmt: skip
    return "\n".join([*head, *_body(blocks, folder), "</main>", "</body>", "</html>"]) + "\n"


def _body(blocks: Sequence[Block], folder: Path) -> Iterator[str]:
    """Everything in its order; the contents stand before the first section."""
    names = _anchors(blocks)
    contents = [f'<li><a href="#{anchor}">{inline(text)}</a></li>' for text, anchor in names]
    anchors = iter(anchor for _, anchor in names)
    for kind, run in groupby(blocks, key=type):
        if kind is Item:
            yield from ["<ul>", *(_item(block) for block in run), "</ul>"]
        elif kind is Picture:
            yield from ['<div class="gallery">', *(_picture(block, folder) for block in run), "</div>"]
        else:
            for block in run:
                if isinstance(block, Heading) and block.level == 2 and contents:
                    yield f'<nav aria-label="Contents"><ul>{"".join(contents)}</ul></nav>'
                    contents = []
                yield _block(block, anchors)


def _anchors(blocks: Sequence[Block]) -> list[tuple[str, str]]:
    """(text, anchor) of all sections."""
    texts = [block.text for block in blocks if isinstance(block, Heading) and block.level == 2]
    return [(text, f"s{place}") for place, text in enumerate(texts, 1)]


def _block(block: Block, anchors: Iterator[str]) -> str:
    if isinstance(block, Heading):
        anchor = f' id="{next(anchors)}"' if block.level == 2 else ""
        return f"<h{block.level}{anchor}>{inline(block.text)}</h{block.level}>"
    if isinstance(block, Table):
        return _table(block)
    if isinstance(block, Code):
        return f"<pre><code>{escape(block.text)}</code></pre>"
    if isinstance(block, Figure):
        return _figure(block)
    return f"<p>{inline(str(block))}</p>" if block else ""


def inline(text: str) -> str:
    """Text with its marks as HTML; everything else is escaped."""
    parts, end = [], 0
    for found in MARKS.finditer(text):
        parts += [escape(text[end : found.start()]), _mark(found)]
        end = found.end()
    return "".join([*parts, escape(text[end:])])


def _mark(found: re.Match[str]) -> str:
    kind = found.lastgroup
    if kind == "code":
        return f"<code>{escape(found['code'])}</code>"
    if kind == "bold":
        return f"<strong>{inline(found['bold'])}</strong>"
    if kind == "em":
        return f"<em>{inline(found['em'])}</em>"
    target = re.sub(r"report\.md$", "report.html", found["to"])
    if ":" in target and not target.startswith(("https://", "http://")):
        return inline(found["link"])
    return f'<a href="{escape(target)}">{inline(found["link"])}</a>'


def _item(block: Item) -> str:
    command = f"<pre><code>{escape(block.command)}</code></pre>" if block.command else ""
    return f"<li>{inline(block.text)}{command}</li>"


def _table(block: Table) -> str:
    """A table in a box of its own, which scrolls where it is wider than the page."""
    words = len(block.header) if block.words is None else block.words
    kinds = [_kind(place, words, block) for place in range(len(block.header))]
    name = escape(", ".join(plain(cell) for cell in block.header if cell) or "facts")
    lines = [f'<div class="scroll" role="region" aria-label="Table: {name}" tabindex="0">', "<table>"]
    if any(block.header):
        cells = (f'<th scope="col"{kind}>{inline(cell)}</th>' for cell, kind in zip(block.header, kinds, strict=True))
        lines.append(f"<thead><tr>{''.join(cells)}</tr></thead>")
    lines.append("<tbody>")
    for first, *rest in block.rows:
        cells = (f"<td{kind}>{inline(cell)}</td>" for cell, kind in zip(rest, kinds[1:], strict=True))
        lines.append(f'<tr><th scope="row"{kinds[0]}>{inline(first)}</th>{"".join(cells)}</tr>')
    return "\n".join([*lines, "</tbody>", "</table>", "</div>"])


def _kind(place: int, words: int, block: Table) -> str:
    """The class of a column: numbers, words in one line, or text."""
    if place >= words:
        return ' class="n"'
    longest = max((len(plain(row[place])) for row in block.rows), default=0)
    return ' class="w"' if longest <= 28 else ""


def _figure(block: Figure) -> str:
    """A chart in two widths, of which the style sheet shows one."""
    chart = block.chart
    drawings = [
        vector.draw(chart, width).replace('class="chart"', f'class="chart {name}"')
        for width, name in ((_WIDE, "wide"), (_NARROW, "narrow"))
    ]
    notes = " ".join(escape(line) for line in chart.notes)
    files = ", ".join(f'<a href="{escape(name)}">{escape(Path(name).suffix[1:].upper())}</a>' for name in block.files)
    caption = f"<figcaption>{notes} Files: {files}.</figcaption>"
    return "\n".join(["<figure>", vector.legend(chart), *drawings, caption, "</figure>"])


def _picture(block: Picture, folder: Path) -> str:
    """Images row by row, in their own size; of a file that does not tell its rows, the whole."""
    link = f'<a href="{escape(block.file)}">PNG</a>'
    try:
        grid = read_grid(folder / block.file)
    except DiffexpError:  # the numbers are worth a page all the same
        return f"<figure><figcaption>{escape(block.alt)}: the picture cannot be read. {link}</figcaption></figure>"
    if grid is None:
        data = base64.b64encode((folder / block.file).read_bytes()).decode()
        image = f'<img src="data:image/png;base64,{data}" alt="{escape(block.alt)}">'
        return f"<figure>{image}<figcaption>{escape(block.alt)}. {link}</figcaption></figure>"
    title, rows = grid
    title = f"{block.run}: {title}" if block.run else title
    lines = [
        f'<div class="strip"><span>{escape(label)}</span>{_strip(images, f"{block.alt}, {label}")}</div>'
        for label, images in rows
    ]
    caption = f"<figcaption>{escape(title)}. {link}</figcaption>"
    return "\n".join(["<figure>", caption, *lines, "</figure>"])


def _strip(images: np.ndarray, alt: str) -> str:
    """Images uint8 (k, H, W, 3) side by side, as one embedded PNG."""
    from PIL import Image

    count, height, width, _ = images.shape
    scale = min(1.0, _LARGEST / width)
    size = (round(width * scale), round(height * scale))
    gap = max(1, size[0] // 16)
    canvas = Image.new("RGBA", (count * (size[0] + gap) - gap, size[1]), (0, 0, 0, 0))
    for place, image in enumerate(images):
        tile = Image.fromarray(image)
        tile = tile.resize(size, Image.Resampling.LANCZOS) if scale < 1.0 else tile
        canvas.paste(tile, (place * (size[0] + gap), 0))
    file = io.BytesIO()
    canvas.save(file, "PNG", optimize=True)
    data, kind = base64.b64encode(file.getvalue()).decode(), ' class="small"' if width <= _SMALL else ""
    extent = f'width="{canvas.width}" height="{canvas.height}"'
    return f'<img{kind} {extent} src="data:image/png;base64,{data}" alt="{escape(alt)}">'
