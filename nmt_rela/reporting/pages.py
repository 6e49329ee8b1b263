"""Reports as Markdown, and as one HTML page that needs no other file."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Iterable, Sequence
from os.path import relpath
from pathlib import Path
from typing import Any

import markdown

from nmt_rela.utils.files import atomic_write

_STYLE = """
body { margin: 2rem auto; max-width: 62rem; padding: 0 1rem; color: #1b2127; background: #fff;
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; } h3 { font-size: 1rem; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; display: block;
  overflow-x: auto; }
th, td { padding: .25rem .7rem; border-bottom: 1px solid #d5dae0; text-align: left; }
th { color: #6b747d; font-weight: 600; border-bottom-color: #6b747d; } img { max-width: 100%; }
pre { background: #f4f6f8; padding: .8rem; overflow-x: auto; font-size: 13px; }
code { font-size: .92em; overflow-wrap: anywhere; }
"""


def table(header: Sequence[str], rows: Iterable[Sequence[str]], *, text_columns: int = 1) -> str:
    """A Markdown table with columns of equal width; all but the first ``text_columns`` are aligned to the right."""
    lines = [[cell.replace("|", "\\|") for cell in line] for line in (header, *rows)]
    widths = [max(3, *map(len, column)) for column in zip(*lines, strict=True)]
    rules = ["-" * width if i < text_columns else "-" * (width - 1) + ":" for i, width in enumerate(widths)]

    def padded(line: Sequence[str]) -> str:
        cells = [
            cell.ljust(width) if i < text_columns else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        return f"| {' | '.join(cells)} |"

    return "\n".join(map(padded, [lines[0], rules, *lines[1:]]))


def figure(path: Path, directory: Path, caption: str) -> str:
    """A picture with its caption, for a page in ``directory``."""
    return f"![{caption}]({relpath(path, directory)})\n\n*{caption}*"


def number(value: Any, digits: int) -> str:
    """A number with separators; a dash for None."""
    return "–" if value is None else f"{value:,.{digits}f}"


def setting(value: object) -> str:
    """The value of a setting as YAML has it, with separators in whole numbers."""
    return str(value).lower() if isinstance(value, bool) else f"{value:,}" if isinstance(value, int) else str(value)


def write_pages(text: str, *, directory: Path, name: str) -> list[Path]:
    """Write ``NAME.md`` and ``NAME.html``; their paths. The title is the first line of the text."""
    title = text.partition("\n")[0].lstrip("# ")
    pages = {f"{name}.md": text, f"{name}.html": to_html(text, title=title, directory=directory)}
    for file, content in pages.items():
        with atomic_write(directory / file) as stream:
            stream.write(content.encode("utf-8"))
    return [directory / file for file in pages]


def to_html(text: str, *, title: str, directory: Path) -> str:
    """The page. Pictures, whose paths are relative to ``directory``, become part of it. HTML in it is text."""
    renderer = markdown.Markdown(extensions=["tables", "fenced_code"])
    renderer.preprocessors.deregister("html_block")
    renderer.inlinePatterns.deregister("html")

    def embed(match: re.Match[str]) -> str:
        data = base64.b64encode((directory / html.unescape(match[1])).read_bytes()).decode("ascii")
        return f'src="data:image/png;base64,{data}"'

    body = re.sub(r'src="([^"]+)"', embed, renderer.convert(text))
    return (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width">\n<title>{html.escape(title)}</title>\n'
        f"<style>{_STYLE}</style>\n{body}\n</html>\n"
    )
