"""What the README shows works as it is shown."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from nmt_rela.corpora.demo_corpus import write_demo_corpus

REPOSITORY = Path(__file__).resolve().parents[2]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
#: Makes the worked example a matter of seconds; nothing else about it changes.
SMALL = "training: {max_updates: 6, save_every: 2, validate_every: 3, validate_sentences: 2, log_every: 2}\n"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def shell(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        cwd=folder, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_training_on_your_own_text(tmp_path: Path) -> None:
    write_demo_corpus(tmp_path)
    for name, count in (("train", 400), ("dev", 10), ("test", 10)):
        for language in ("en", "de"):
            file = tmp_path / f"{name}.{language}"
            file.write_text(
                "".join(file.read_text(encoding="utf-8").splitlines(keepends=True)[:count]), encoding="utf-8"
            )
    (tmp_path / "configs").symlink_to(REPOSITORY / "configs")
    task, config = blocks("yaml")
    (tmp_path / "mytask.yaml").write_text(task, encoding="utf-8")
    (tmp_path / "mine.yaml").write_text(config + SMALL, encoding="utf-8")
    (commands,) = blocks("sh")
    result = shell(commands, tmp_path)
    assert result.returncode == 0, result.stderr
    assert "BLEU|nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp" in result.stdout
    assert (tmp_path / "runs" / "mine" / "average").is_dir()
    (program,) = blocks("python")
    result = shell(f"{sys.executable} - <<'PROGRAM'\n{program}PROGRAM", tmp_path)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("command", re.findall(r"^    (nmt-train --config configs/.*)$", README, flags=re.MULTILINE))
def test_every_experiment_shown_has_a_valid_configuration(command: str) -> None:
    result = shell(f"{command} --print-config", REPOSITORY)
    assert result.returncode == 0, result.stderr
    assert "attention:" in result.stdout


def test_every_command_in_the_table_exists_with_the_options_shown() -> None:
    shown = re.findall(r"^\| `(nmt-\w+) (--\w+) \w+` \|", README, flags=re.MULTILINE)
    assert {name for name, _ in shown} == {
        f"nmt-{name}" for name in ("prepare", "train", "translate", "evaluate", "score", "average", "analyze")
    }
    for name, option in shown:
        result = shell(f"{name} --help", REPOSITORY)
        assert result.returncode == 0
        assert option in result.stdout


def test_every_make_target_and_link_shown_exists() -> None:
    targets = set(re.findall(r"(?:`|^    )make ([a-z0-9-]+)", README, flags=re.MULTILINE))
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    assert targets
    assert {target for target in targets if not re.search(rf"^{target}:", makefile, flags=re.MULTILINE)} == set()
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert [link for link in links if not link.startswith("http") and not (REPOSITORY / link).exists()] == []
