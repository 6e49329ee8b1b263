"""The package as it is installed: its commands, its start-up time, its files."""

from __future__ import annotations

import configparser
import importlib.metadata
import resource
import runpy
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml

import nmt_rela

REPOSITORY = Path(__file__).resolve().parents[2]
#: Without the directory lines that make adds when make has called it.
MAKE = ("make", "--no-print-directory")
COMMANDS = "demo prepare train translate evaluate export import average compare score analyze reproduce".split()
#: The module of each command; "import" is a word of Python.
MODULES = {name: name for name in COMMANDS} | {"import": "import_model"}
HEAVY = (
    "torch",
    "numpy",
    "sentencepiece",
    "sacrebleu",
    "matplotlib",
    "tensorboard",
    "ctranslate2",
    "safetensors",
    "transformers",
)


def tracked_files() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [REPOSITORY / name for name in listed.stdout.split("\0") if name and (REPOSITORY / name).is_file()]


def test_every_command_is_an_entry_point() -> None:
    setup = configparser.ConfigParser()
    setup.read(REPOSITORY / "setup.cfg", encoding="utf-8")
    lines = setup["options.entry_points"]["console_scripts"].split("\n")
    wanted = [f"nmt-{name} = nmt_rela.commands.{module}:main" for name, module in MODULES.items()]
    assert sorted(filter(None, lines)) == sorted(wanted)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_is_installed_and_answers_at_once(name: str) -> None:
    script = Path(sysconfig.get_path("scripts")) / f"nmt-{name}"
    seconds = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([script, "--help"], capture_output=True, text=True, check=False)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith(f"usage: nmt-{name} ")
    assert min(seconds) < 0.3, f"processor seconds of three starts: {seconds}"


@pytest.mark.parametrize("name", COMMANDS)
def test_help_loads_nothing_heavy(name: str) -> None:
    code = f"""
import sys
from nmt_rela.commands.{MODULES[name]} import main
status = main(["--help"])
print("loaded:", *sorted(set({HEAVY!r}) & set(sys.modules)))
sys.exit(status)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("\nloaded:\n")


@pytest.mark.parametrize("name", COMMANDS)
def test_a_wrong_argument_is_one_line(name: str) -> None:
    line = [sys.executable, "-m", f"nmt_rela.commands.{MODULES[name]}", "--no-such-option"]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(f"nmt-{name}: error: ")
    assert done.stderr.count("\n") == 1


def test_importing_the_package_is_cheap() -> None:
    code = f"import sys, nmt_rela; print(set({HEAVY!r}) & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_the_version_is_the_same_everywhere() -> None:
    assert importlib.metadata.version("nmt_rela") == nmt_rela.__version__


def test_types_are_packaged() -> None:
    assert (Path(nmt_rela.__file__).parent / "py.typed").is_file()


@pytest.mark.slow
def test_wheel_and_sdist_are_complete(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for file in tracked_files():
        copy = source / file.relative_to(REPOSITORY)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)
    code = f"from setuptools import build_meta as b; b.build_wheel({str(tmp_path)!r}); b.build_sdist({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=source, check=True, capture_output=True)
    files = {str(file.relative_to(REPOSITORY)) for file in tracked_files()}
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        packed = set(wheel.namelist())
    assert {name for name in files if name.startswith("nmt_rela/")} <= packed
    shared = {name.split("/data/share/nmt_rela/")[-1] for name in packed}
    assert {name.removeprefix("data/") for name in files if name.startswith(("data/tasks/", "data/demo/"))} <= shared
    assert {name for name in files if name.startswith("configs/")} <= shared
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as archive:
        assert files <= {name.partition("/")[2] for name in archive.getnames()}


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text("utf-8"))
    assert citation["version"] == nmt_rela.__version__
    assert citation["preferred-citation"]["url"] in (REPOSITORY / "README.md").read_text("utf-8")


TARGETS = ["help", "install", "demo", "test", "test-all", "lint", "format", "docs", "bench", "gpu-check", "clean"]
TABLES = ["wmt14", "wmt14-en-fr", "wmt18-en-fi", "wmt18-zh-en", "wmt16-ro-en", "multi30k"]


@pytest.mark.parametrize("target", [*TARGETS, *(f"reproduce-{name}" for name in TABLES)])
def test_make_has_the_target(target: str) -> None:
    done = subprocess.run([*MAKE, "-n", target], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_make_help_lists_every_target() -> None:
    shown = subprocess.run([*MAKE, "help"], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    assert {line.split()[1] for line in shown.splitlines()} == {*TARGETS, *(f"reproduce-{name}" for name in TABLES)}


def test_make_passes_all_variables_to_the_command() -> None:
    words = ["SCALE=smoke", "ATTENTION=softmax rela-g", "SEEDS=1 2", "PLAN=1", "OPTIONS=model.num_heads=4"]
    done = subprocess.run(
        [*MAKE, "-n", "reproduce-wmt18-zh-en", *words], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    line = done.stdout.splitlines()[-1]
    wanted = 'wmt18-zh-en --plan --scale smoke --attention "softmax rela-g" --seeds "1 2" model.num_heads=4'
    assert line.endswith(f"nmt-reproduce {wanted}")


def test_make_clean_keeps_runs_data_and_the_environment() -> None:
    done = subprocess.run([*MAKE, "-n", "clean"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert not {"runs", "data", ".venv", "."} & set(done.stdout.split())


def test_the_configuration_reference_is_up_to_date() -> None:
    page = runpy.run_path(str(REPOSITORY / "scripts/tools/config_reference.py"))["render"]()
    shown = (REPOSITORY / "docs/configuration.md").read_text(encoding="utf-8")
    assert shown == page, "docs/configuration.md is out of date: make docs"
    for row in page.splitlines():
        assert not row.startswith("| `") or row.rstrip(" |").count(" | ") == 3, f"a key without a meaning: {row}"
