"""The order of imports: a folder of the package imports only from folders below it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "nmt_rela"

#: The folders of the package, from the top down. Folders of one set do not import from each other.
ORDER = (
    {"commands"},
    {"reproduction"},
    {"reporting"},
    {"training"},
    {"export"},
    {"analysis"},
    {"generation"},
    {"checkpoints"},
    {"preparation"},
    {"metrics"},
    {"models"},
    {"attention"},
    {"data"},
    {"config"},
    {"kernels"},
    {"utils"},
)
LEVEL = {folder: number for number, folders in enumerate(ORDER) for folder in folders}
FILES = sorted(PACKAGE.rglob("*.py"))


def folder_of(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(tree: ast.AST) -> Iterator[str]:
    """The folders a file imports from, inside functions and under TYPE_CHECKING too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            parts = name.split(".")
            if parts[0] == "nmt_rela" and len(parts) > 1 and parts[1] != "__version__":
                yield parts[1]


def test_every_folder_is_in_the_order() -> None:
    assert {folder_of(file) for file in FILES} - {"__init__"} <= set(LEVEL)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_come_from_below(file: Path) -> None:
    folder = folder_of(file)
    for imported in imports(ast.parse(file.read_text(encoding="utf-8"))):
        if folder != "__init__" and imported != folder:
            assert LEVEL[imported] > LEVEL[folder], f"{folder} imports {imported}"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_only_commands_and_reproduction_prepare_data(file: Path) -> None:
    if folder_of(file) not in ("commands", "reproduction", "preparation"):
        assert "preparation" not in set(imports(ast.parse(file.read_text(encoding="utf-8"))))


@pytest.mark.parametrize("folder", ["attention", "models", "kernels"])
def test_folders_of_plain_values_know_neither_configuration_nor_trainer(folder: str) -> None:
    for file in (PACKAGE / folder).rglob("*.py"):
        assert not {"config", "training"} & set(imports(ast.parse(file.read_text(encoding="utf-8")))), file


def test_imports_for_type_checking_only_count_as_imports() -> None:
    source = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from nmt_rela.training.trainer import Trainer\n"
    assert list(imports(ast.parse(source))) == ["training"]
