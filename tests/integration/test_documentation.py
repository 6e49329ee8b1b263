"""What README and docs show works: every block is executed at smoke scale, or parsed where it says why."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from nmt_rela.config.builder import key_paths
from nmt_rela.config.schema import Config
from tests.integration.documentation import PAGES, REPOSITORY, Block, Sandbox, blocks_of, check_command, commands_in

NAMES = [page.relative_to(REPOSITORY).as_posix() for page in PAGES]
#: Pages whose shell blocks say what becomes of each.
PAGES_WITHOUT_MARKS = ("configuration", "performance", "reproduction", "results", "tasks", "code", "STYLE", "index")
MARKED = [name for name in NAMES if name.startswith(("README", "docs/")) and Path(name).stem not in PAGES_WITHOUT_MARKS]


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Sandbox:
    """A sandbox with its demo trained, to be copied."""
    sandbox = Sandbox(tmp_path_factory.mktemp("documentation") / "trained")
    sandbox.train_demo()
    return sandbox


def page(name: str) -> list[Block]:
    return blocks_of(REPOSITORY / name)


@pytest.mark.parametrize("name", NAMES)
def test_every_command_shown_exists_with_its_options_and_settings(name: str) -> None:
    for block in page(name):
        if block.language in ("", "sh") and block.mark != "text":
            for words in commands_in(block):
                check_command(words)


@pytest.mark.parametrize("name", NAMES)
def test_python_compiles_and_yaml_loads(name: str) -> None:
    for block in page(name):
        if block.language == "python":
            compile(block.text, str(block), "exec")
        elif block.language == "yaml":
            assert isinstance(yaml.safe_load(block.text), dict), str(block)


@pytest.mark.parametrize("name", MARKED)
def test_a_block_that_is_not_executed_states_its_reason(name: str) -> None:
    for block in page(name):
        assert block.language, f"{block}: an indented block; give it a fence and a language"
        if block.language in ("sh", "python"):
            assert block.mark, f"{block}: neither run nor a reason why not"


def executed(name: str, sandbox: Sandbox) -> int:
    blocks = page(name)
    for block in blocks:
        sandbox.execute(block)
    return sum(block.mark == "run" for block in blocks)


def test_the_readme_works(trained: Sandbox, tmp_path: Path) -> None:
    sandbox = trained.copy(tmp_path / "copy")
    assert executed("README.md", sandbox) == 2
    assert (sandbox.folder / "runs/mine/average").is_dir()


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if name != "README.md"])
def test_the_page_can_be_executed(name: str, trained: Sandbox, tmp_path: Path) -> None:
    executed(name, trained.copy(tmp_path / "copy"))


def test_the_table_of_commands_is_complete() -> None:
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    shown = re.findall(r"^\| `(nmt-\w+)[^`]*` \|", text, flags=re.MULTILINE)
    commands = re.findall(r"^    (nmt-\w+) = ", (REPOSITORY / "setup.cfg").read_text("utf-8"), flags=re.MULTILINE)
    assert sorted(shown) == sorted(commands)
    for words in re.findall(r"^\| `(nmt-[^`]+)` \|", text, flags=re.MULTILINE):
        check_command(words.split())


@pytest.mark.parametrize("name", NAMES)
def test_every_link_and_make_target_exists(name: str) -> None:
    file = REPOSITORY / name
    text = file.read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        if not link.startswith("http"):
            assert (file.parent / link).exists(), f"{name}: {link}"
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"`make ([a-z0-9-]+)[` ]", text):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), f"{name}: make {target}"


@pytest.mark.parametrize("name", NAMES)
def test_every_setting_named_exists(name: str) -> None:
    text = (REPOSITORY / name).read_text(encoding="utf-8")
    named = re.findall(r"`((?:data|training|decoding|evaluation)\.[a-z_]+)(?=[`:= ])", text)
    assert set(named) <= set(key_paths(Config))


@pytest.mark.parametrize("name", NAMES)
def test_tables_are_tables(name: str) -> None:
    """Every row of a table stands on a line of its own, and has the columns of its header."""
    columns = 0
    for number, line in enumerate((REPOSITORY / name).read_text(encoding="utf-8").split("\n"), 1):
        if not line.startswith("|"):
            columns = 0
            continue
        cells = len(re.findall(r"(?<!\\)\|", re.sub(r"`[^`]*`", "", line))) - 1
        columns = columns or cells
        assert line.endswith("|"), f"{name}:{number}: a row that goes on in the next line"
        assert cells == columns, f"{name}:{number}: {cells} cells under {columns} headings"


def test_every_page_is_reached_from_the_readme_through_the_index() -> None:
    assert "(docs/index.md)" in (REPOSITORY / "README.md").read_text(encoding="utf-8")
    text = (REPOSITORY / "docs/index.md").read_text(encoding="utf-8")
    pages = [name.removeprefix("docs/") for name in NAMES if name.startswith("docs/") and name != "docs/index.md"]
    assert [name for name in pages if f"({name})" not in text] == []


def test_the_places_where_to_change_what_exist() -> None:
    """docs/code.md: every file of the first table exists, and contains the names beside it."""
    table = (REPOSITORY / "docs/code.md").read_text(encoding="utf-8").split("\n## ")[0]
    rows = re.findall(r"^\| [^|`]+ \| (`[^|]+) \|([^|]*)\|$", table, flags=re.MULTILINE)
    assert len(rows) >= 20
    for files, names in rows:
        paths = [REPOSITORY / "nmt_rela" / name for name in re.findall(r"`([^`]+)`", files)]
        assert all(path.exists() for path in paths), files
        text = "".join(path.read_text(encoding="utf-8") for path in paths if path.is_file())
        for name in re.findall(r"`([A-Za-z_]\w*)`", names):
            assert re.search(rf"\b{name}\b", text), f"{files}: {name}"
