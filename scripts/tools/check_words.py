#!/usr/bin/env python3
"""Find retired words: the table in docs/STYLE.md against code, comments, messages and pages.

    python scripts/tools/check_words.py                       the whole repository
    python scripts/tools/check_words.py nmt_rela/generation   one folder, or some files

Each finding is one line: file:line, the words found and what to write instead. The exit status is 1 if there is any.
"""

from __future__ import annotations

import argparse
import ast
import io
import itertools
import re
import sys
import tokenize
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
STYLE = REPOSITORY / "docs" / "STYLE.md"
#: What is checked without arguments.
ROOTS = ("nmt_rela", "scripts", "tests", "configs", "data/tasks", "docs", "README.md", "CHANGELOG.md", "Makefile")
SUFFIXES = {".py", ".md", ".yaml", ".html", ".js", ".css", ""}
EXEMPTION = "words: allow"
#: Left out: stored data, the generator of the demo corpus, whose subject is everyday language, and planted words.
EXCLUDED = {"frozen", "demo_corpus", "test_repository_checks.py"}
#: Takes the place of code between two pieces of prose, so that no phrase reaches across it.
_GAP = "\0"


@dataclass(frozen=True, slots=True)
class Rule:
    """One row of the table."""

    pattern: re.Pattern[str]
    in_prose: bool
    in_names: bool
    replacement: str
    allowed: re.Pattern[str] | None

    def search(self, text: str) -> Iterator[re.Match[str]]:
        """The matches that no allowed phrase covers."""
        spans = [match.span() for match in self.allowed.finditer(text)] if self.allowed else []
        for match in self.pattern.finditer(text):
            if not any(start <= match.start() and match.end() <= end for start, end in spans):
                yield match


@dataclass(frozen=True, slots=True)
class Finding:
    """A retired phrase in a file."""

    file: Path
    line: int
    words: str
    replacement: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: '{self.words}': {self.replacement}"


def expand(phrase: str) -> list[str]:
    """All readings of a phrase: ``{a,b} c`` gives ``a c`` and ``b c``."""
    parts = re.split(r"\{([^}]*)\}", phrase)
    choices = [part.split(",") if index % 2 else [part] for index, part in enumerate(parts)]
    return ["".join(reading) for reading in itertools.product(*choices)]


def compile_phrases(cell: str) -> re.Pattern[str] | None:
    """One pattern for all back-ticked phrases of a table cell."""
    phrases = [reading for phrase in re.findall(r"`([^`]+)`", cell) for reading in expand(phrase)]
    if not phrases:
        return None
    readings = "|".join(re.escape(phrase).replace(r"\ ", r"\s+") for phrase in phrases)
    return re.compile(rf"(?<![\w-])(?:{readings})(?![\w-])", re.IGNORECASE)


def read_rules(style: Path = STYLE) -> list[Rule]:
    """The rows of the table of retired words. Raises ``ValueError`` if a row cannot be read."""
    section = style.read_text(encoding="utf-8").partition("\n## Retired words\n")[2]
    rules = []
    for row in re.findall(r"^\| (`.*) \|$", section, flags=re.MULTILINE):
        cells = [cell.strip() for cell in row.split("|")]
        if len(cells) != 4 or cells[1] not in ("prose", "names", "all"):
            raise ValueError(f"{style}: not a row of retired words: {row}")
        pattern = compile_phrases(cells[0])
        assert pattern is not None
        where = cells[1]
        rules.append(Rule(pattern, where != "names", where != "prose", cells[2], compile_phrases(cells[3])))
    if not rules:
        raise ValueError(f"{style}: the table of retired words is missing")
    return rules


def words_of(name: str) -> str:
    """The words of an identifier: ``padding_share`` and ``PaddingShare`` give ``padding share``."""
    return " ".join(re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name).replace("_", " ").split()).lower()


def defined_names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Names that a module defines, with their lines. Names that it only uses may belong to other libraries."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.lineno, node.name
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.attr
        elif isinstance(node, ast.alias) and node.asname:
            yield node.lineno, node.asname
        elif isinstance(node, ast.Constant) and re.fullmatch(r"[A-Za-z]+(_[A-Za-z]+)+", str(node.value)):
            yield node.lineno, str(node.value)  # a key of a record or of a metric


def prose_of_python(source: str) -> str:
    """Comments and strings at their places, everything else blanked, so that offsets and lines stay."""
    lines = source.splitlines(keepends=True)
    starts = [0, *itertools.accumulate(map(len, lines))]
    kept = [_GAP if not char.isspace() else char for char in source]
    string_types = {tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", -1)}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT or token.type in string_types:
            begin = starts[token.start[0] - 1] + token.start[1]
            end = starts[token.end[0] - 1] + token.end[1]
            text = source[begin:end]
            opening = re.match(r"#:?" if token.type == tokenize.COMMENT else r"[a-zA-Z]*(?:\"\"\"|'''|\"|')", text)
            if opening:
                text = " " * opening.end() + text[opening.end() :]
            kept[begin:end] = re.sub(r"\"\"\"$|'''$|\"$|'$", lambda quote: " " * len(quote[0]), text)
    return "".join(kept)


def prose_of_markdown(text: str) -> str:
    """A page without inline code and without code blocks, of which only shell comments stay."""

    def blank(match: re.Match[str]) -> str:
        return re.sub(r"\S", _GAP, match[0])

    def comments_only(match: re.Match[str]) -> str:
        lines = []
        for line in match[0].splitlines(keepends=True):
            code, sign, comment = line.partition("# ")
            lines.append(re.sub(r"\S", _GAP, code + sign) + comment)
        return "".join(lines)

    text = re.sub(r"^```(?:(?!^```).)*^```$", comments_only, text, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"`[^`\n]+`", blank, text)


def prose_of_comments(text: str) -> str:
    """The comments of a YAML file or a makefile."""
    lines = []
    for line in text.splitlines(keepends=True):
        code, sign, comment = line.partition("#")
        lines.append(re.sub(r"\S", _GAP, code) + (" " * len(sign)) + comment)
    return "".join(lines)


def check_file(file: Path, rules: Sequence[Rule], shown: Path | None = None) -> list[Finding]:
    """The findings in one file, in the order of lines."""
    text = file.read_text(encoding="utf-8")
    exempt = {number for number, line in enumerate(text.split("\n"), 1) if EXEMPTION in line}
    names: list[tuple[int, str]] = []
    if file.suffix == ".py":
        names = list(defined_names(ast.parse(text)))
        prose = prose_of_python(text)
    elif file.suffix == ".md":
        prose = prose_of_markdown(text)
    elif file.suffix in (".yaml", ""):
        prose = prose_of_comments(text)
    else:
        prose = text
    if file.suffix in (".py", ".yaml"):
        names.append((1, file.stem))
    found = set()
    pieces = [(piece.start(), piece[0]) for piece in re.finditer(rf"[^{_GAP}]*\w[^{_GAP}]*", prose)]
    for rule in rules:
        if rule.in_prose:
            for start, piece in pieces:
                for match in rule.search(piece):
                    line = prose.count("\n", 0, start + match.start()) + 1
                    found.add((line, " ".join(match[0].split()), rule.replacement))
        for line, name in names:
            if (rule.in_prose if name.startswith("test_") else rule.in_names) and any(rule.search(words_of(name))):
                found.add((line, name, rule.replacement))
    return [Finding(shown or file, *each) for each in sorted(found) if each[0] not in exempt]


def files_under(paths: Iterable[Path]) -> Iterator[Path]:
    """The files to check, folders with all that they hold. The page with the table itself is left out."""
    for path in paths:
        inside = sorted(path.rglob("*")) if path.is_dir() else [path]
        for file in inside:
            if file.is_file() and file.suffix in SUFFIXES and file.resolve() != STYLE and not EXCLUDED & {*file.parts}:
                yield file


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("paths", nargs="*", type=Path, metavar="PATH", help="a file or folder (default: all)")
    paths = parser.parse_args(arguments).paths or [REPOSITORY / root for root in ROOTS if (REPOSITORY / root).exists()]
    rules = read_rules()
    found = []
    for file in files_under(paths):
        path = file.resolve()
        shown = path.relative_to(REPOSITORY) if path.is_relative_to(REPOSITORY) else file
        found += check_file(file, rules, shown)
    print(*found, sep="\n", end="\n" if found else "")
    if found:
        print(f"{len(found)} retired words; docs/STYLE.md lists them", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
