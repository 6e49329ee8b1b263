"""The checks that `make lint` adds: retired words and faults of the repository's files."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

TOOLS = Path(__file__).resolve().parents[2] / "scripts" / "tools"


def load(name: str) -> ModuleType:
    """A script of scripts/tools as a module."""
    spec = importlib.util.spec_from_file_location(name, TOOLS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


check_words = load("check_words")
check_repository = load("check_repository")


def found_in(folder: Path, name: str, text: str) -> list[tuple[int, str]]:
    file = folder / name
    file.write_text(text, encoding="utf-8")
    return [(finding.line, finding.words) for finding in check_words.check_file(file, check_words.read_rules())]


PLANTED = [
    ('"""The share of zeros."""\n', [(1, "The share")]),
    ("#: Weights by row, a\n#: share of all.\n", [(1, "a share")]),
    ("x = 1  # mended\n", [(1, "mended")]),
    ("padding_share = 0.5\n", [(1, "padding_share")]),
    ("class PaddingShare:\n    pass\n", [(1, "PaddingShare")]),
    ("def f(kind: str) -> None:\n    pass\n", [(1, "kind")]),
    ("class A:\n    def __init__(self) -> None:\n        self.kinds = 1\n", [(3, "kinds")]),
    ('record = {"padding_share": 1}\n', [(1, "padding_share")]),
    ('message = f"the likelihood is {1}"\n', [(1, "likelihood")]),
    ('message = ("two subjects in "\n    "turns")\n', [(1, "in turns")]),
    ('message = "timed in turns"\n', [(1, "in turns")]),
    ('rate = "2,000 tokens a second"\n', [(1, "tokens a second")]),
    ("def test_every_kind_sums_to_one() -> None:\n    pass\n", [(1, "test_every_kind_sums_to_one")]),
]


@pytest.mark.parametrize(("text", "expected"), PLANTED, ids=range(len(PLANTED)))
def test_a_planted_word_is_found_in_python(text: str, expected: list[tuple[int, str]], tmp_path: Path) -> None:
    assert found_in(tmp_path, "planted.py", text) == expected


def test_a_planted_word_is_found_in_pages_and_comments(tmp_path: Path) -> None:
    page = "# Title\n\nFive kinds,\nmeasured in\nturns. `kinds of attention`\n\n"
    page += "```sh\nnmt-train --kinds a  # the kinds\n```\n"
    assert found_in(tmp_path, "page.md", page) == [(3, "Five kinds"), (4, "in turns"), (8, "the kinds")]
    assert found_in(tmp_path, "a.yaml", "kinds: 1  # mended text\n") == [(1, "mended")]


CLEAN = [
    '"""Layers share one matrix; the log-likelihood and the negative log-likelihood are allowed."""\n',
    "order = values.argsort(kind='stable')\nmemory = tensor.share_memory_()\n",
    "# It takes this into account, and it is accountable. Kinds of archives: tar and zip.\n",
    'message = f"{kinds} of {share}"\n',
    "def test_layers_share_one_matrix() -> None:\n    pass\n",
    "share = 1  # words: allow\n",
]


@pytest.mark.parametrize("text", CLEAN, ids=range(len(CLEAN)))
def test_clean_text_passes(text: str, tmp_path: Path) -> None:
    assert found_in(tmp_path, "clean.py", text) == []


def test_code_between_two_comments_separates_their_phrases(tmp_path: Path) -> None:
    assert found_in(tmp_path, "apart.py", "# measured in\nvalue = 1\n# turns\n") == []


def test_the_command_names_place_word_and_replacement(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "page.md").write_text("One\nsitting.\n", encoding="utf-8")
    assert check_words.main([str(tmp_path)]) == 1
    assert capsys.readouterr().out == f"{tmp_path / 'page.md'}:2: 'sitting': run, session\n"
    (tmp_path / "page.md").write_text("One run.\n", encoding="utf-8")
    assert check_words.main([str(tmp_path)]) == 0


def test_a_row_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    style = tmp_path / "STYLE.md"
    style.write_text("\n## Retired words\n\n| `a` | somewhere | b | |\n", encoding="utf-8")
    with pytest.raises(ValueError, match="not a row"):
        check_words.read_rules(style)
    style.write_text("nothing\n", encoding="utf-8")
    with pytest.raises(ValueError, match="missing"):
        check_words.read_rules(style)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A small repository without a fault."""
    for name in ("LICENSE", "README.md", "CHANGELOG.md", "docs/STYLE.md", "nmt_rela/a.py", ".ci/run"):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("text\n", encoding="utf-8")
    (tmp_path / ".ci/run").chmod(0o755)
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts/constraints.txt").write_text("# pins\nnumpy==2.0\nmypy==1.1\n", encoding="utf-8")
    setup = "[options]\ninstall_requires =\n    torch>=2.6\n    numpy\n[options.extras_require]\ndev =\n    mypy\n"
    (tmp_path / "setup.cfg").write_text(setup, encoding="utf-8")
    return tmp_path


def test_a_repository_without_faults_passes(repository: Path) -> None:
    assert check_repository.faults(repository) == []
    assert check_repository.main([str(repository)]) == 0


def plant(repository: Path, fault: str) -> None:
    match fault:
        case "large":
            (repository / "corpus.bin").write_bytes(bytes(500_001))
        case "long":
            (repository / "nmt_rela/a.py").write_text("x = 1\n" * 451, encoding="utf-8")
        case "readme":
            (repository / "README.md").write_text("x\n" * 151, encoding="utf-8")
        case "path":
            (repository / "nmt_rela/a.py").write_text("x = 1\npath = '/" + "root/data'\n", encoding="utf-8")
        case "own path":
            (repository / "nmt_rela/a.py").write_text(f"path = '{repository}/data'\n", encoding="utf-8")
        case "pin":
            setup = (repository / "setup.cfg").read_text(encoding="utf-8")
            (repository / "setup.cfg").write_text(setup + "    ruff\n", encoding="utf-8")
        case "licence":
            (repository / "LICENSE").unlink()
        case "executable":
            (repository / ".ci/run").chmod(0o644)


FAULTS = {
    "large": "corpus.bin: 500,001 bytes",
    "long": "nmt_rela/a.py: 451 lines",
    "readme": "README.md: 151 lines",
    "path": "nmt_rela/a.py:2: the path",
    "own path": "nmt_rela/a.py:1: the path",
    "pin": "scripts/constraints.txt: ruff",
    "licence": "LICENSE: missing",
    "executable": ".ci/run: missing or not executable",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_fails(fault: str, repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plant(repository, fault)
    assert check_repository.main([str(repository)]) == 1
    shown = capsys.readouterr().out.splitlines()
    assert len(shown) == 1
    assert shown[0].startswith(FAULTS[fault])
