"""A Markdown report as one HTML page that needs no other file."""

from __future__ import annotations

import base64
import html
import re
from pathlib import Path

import markdown

_STYLE = """
body { margin: 2rem auto; max-width: 62rem; padding: 0 1rem; color: #1b2127; background: #fff;
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; } h3 { font-size: 1rem; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .7rem; border-bottom: 1px solid #d5dae0; text-align: left; }
th { color: #6b747d; font-weight: 600; border-bottom-color: #6b747d; } img { max-width: 100%; }
pre { background: #f4f6f8; padding: .8rem; overflow-x: auto; font-size: 13px; } code { font-size: .92em; }
"""


def to_html(text: str, *, title: str, directory: Path) -> str:
    """The page. Pictures, whose paths are relative to ``directory``, become part of it."""

    def embed(match: re.Match[str]) -> str:
        data = base64.b64encode((directory / html.unescape(match[1])).read_bytes()).decode("ascii")
        return f'src="data:image/png;base64,{data}"'

    body = re.sub(r'src="([^"]+)"', embed, markdown.markdown(text, extensions=["tables", "fenced_code"]))
    return (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width">\n<title>{html.escape(title)}</title>\n'
        f"<style>{_STYLE}</style>\n{body}\n</html>\n"
    )
