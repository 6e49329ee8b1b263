"""A report as a list of blocks, which can be written as Markdown and as one self-contained HTML page."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from os.path import relpath
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Heading:
    """A title; level 1 is the page's."""

    text: str
    level: int = 2


@dataclass(frozen=True, slots=True)
class Paragraph:
    """Text with ``code``, **emphasis** and [links](target)."""

    text: str


@dataclass(frozen=True, slots=True)
class Points:
    """A list."""

    items: Sequence[str]


@dataclass(frozen=True, slots=True)
class Table:
    """A header and rows; the first columns are text, the others numbers."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    text_columns: int = 1


@dataclass(frozen=True, slots=True)
class Figure:
    """A picture in a PNG file."""

    path: Path
    caption: str


@dataclass(frozen=True, slots=True)
class Code:
    """Lines as they are."""

    lines: Sequence[str]


Block = Heading | Paragraph | Points | Table | Figure | Code

_STYLE = """
body { margin: 2rem auto; max-width: 62rem; padding: 0 1rem; color: #1b2127; background: #fff;
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; } h3 { font-size: 1rem; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .7rem; border-bottom: 1px solid #d5dae0; text-align: right; }
th { color: #6b747d; font-weight: 600; border-bottom-color: #6b747d; }
.text { text-align: left; }
figure { margin: 1.2rem 0; } img { max-width: 100%; } figcaption { color: #6b747d; }
pre { background: #f4f6f8; padding: .8rem; overflow-x: auto; font-size: 13px; } code { font-size: .92em; }
"""


def to_markdown(blocks: Sequence[Block], *, beside: Path) -> str:
    """The blocks as Markdown; pictures are linked relative to the directory ``beside``."""
    return "\n\n".join(_markdown(block, beside) for block in blocks) + "\n"


def to_html(blocks: Sequence[Block]) -> str:
    """The blocks as one page that needs no other file."""
    title = next((block.text for block in blocks if isinstance(block, Heading)), "Report")
    body = "\n".join(_html(block) for block in blocks)
    return (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width">\n<title>{html.escape(title)}</title>\n'
        f"<style>{_STYLE}</style>\n{body}\n</html>\n"
    )


def _markdown(block: Block, beside: Path) -> str:
    match block:
        case Heading():
            return f"{'#' * block.level} {block.text}"
        case Paragraph():
            return block.text
        case Points():
            return "\n".join(f"* {item}" for item in block.items)
        case Table():
            marks = ["---" if place < block.text_columns else "---:" for place in range(len(block.header))]
            rows = [block.header, marks, *block.rows]
            return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows)
        case Figure():
            return f"![{block.caption}]({relpath(block.path, beside)})"
        case Code():
            return "\n".join(["```text", *block.lines, "```"])


def _html(block: Block) -> str:
    match block:
        case Heading():
            return f"<h{block.level}>{html.escape(block.text)}</h{block.level}>"
        case Paragraph():
            return f"<p>{_inline(block.text)}</p>"
        case Points():
            return "<ul>" + "".join(f"<li>{_inline(item)}</li>" for item in block.items) + "</ul>"
        case Table():
            head = _row("th", block.header, block.text_columns)
            return f"<table>{head}{''.join(_row('td', row, block.text_columns) for row in block.rows)}</table>"
        case Figure():
            data = base64.b64encode(block.path.read_bytes()).decode("ascii")
            picture = f'<img alt="{html.escape(block.caption)}" src="data:image/png;base64,{data}">'
            return f"<figure>{picture}<figcaption>{_inline(block.caption)}</figcaption></figure>"
        case Code():
            return f"<pre>{html.escape(chr(10).join(block.lines))}</pre>"


def _row(tag: str, cells: Sequence[str], text_columns: int) -> str:
    marked = (
        f'<{tag} class="text">{_inline(cell)}</{tag}>' if place < text_columns else f"<{tag}>{_inline(cell)}</{tag}>"
        for place, cell in enumerate(cells)
    )
    return f"<tr>{''.join(marked)}</tr>"


def _inline(text: str) -> str:
    escaped = html.escape(text, quote=False)
    escaped = re.sub(r"\*\*([^*]+)\*\*", r"<strong>\1</strong>", escaped)
    escaped = re.sub(r"`([^`]+)`", r"<code>\1</code>", escaped)
    return re.sub(r"\[([^\]]+)\]\(([^)\s]+)\)", r'<a href="\2">\1</a>', escaped)
