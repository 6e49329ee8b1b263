"""Train a small model on the demo corpus, translate and score its test set, and draw what its heads attend to.

    nmt-demo                                                      rela-g, in runs/demo: about five minutes
    nmt-demo model.attention=softmax run_dir=runs/demo-softmax    another variant

Each step is a command of the package, printed before it runs, so it can be repeated by hand. A second run reuses the
data and the trained model.
"""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from nmt_rela.commands import cli
from nmt_rela.config.loader import load_config
from nmt_rela.config.schema import Config

CONFIG = "demo"
EXAMPLES = 5


def main(arguments: Sequence[str] | None = None) -> int:
    """The command ``nmt-demo``."""
    return cli.run("nmt-demo", _demonstrate, arguments)


def _demonstrate(arguments: Sequence[str] | None) -> int:
    parser = cli.make_parser("nmt-demo", __doc__)
    cli.add_overrides(parser)
    options = cli.parse(parser, arguments)
    config = load_config(CONFIG, options.overrides)
    start, quiet = time.monotonic(), ["--quiet"] * options.quiet
    for command in (
        ["nmt-train", "--config", CONFIG, *options.overrides],
        ["nmt-average", "--model", config.run_dir],
        ["nmt-evaluate", "--model", config.run_dir],
    ):
        status = _step([*command, *quiet])
        if status:
            return status
    _show_examples(config)
    can_plot = importlib.util.find_spec("matplotlib") is not None
    plots = [] if can_plot else ["--no-plots"]
    status = _step(["nmt-analyze", "--model", config.run_dir, "--live", *plots, *quiet])
    if not status:
        print("\n".join(_closing_lines(config, seconds=round(time.monotonic() - start), can_plot=can_plot)))
    return status


def _closing_lines(config: Config, *, seconds: int, can_plot: bool) -> Iterator[str]:
    """What to type and to open next."""
    from nmt_rela.checkpoints.run_directory import RunDirectory

    run, model = RunDirectory(config.run_dir), shlex.quote(config.run_dir)
    minutes, seconds = divmod(seconds, 60)
    yield f"\nThe demo took {minutes} min {seconds} s. To go on, type:\n"
    activate = Path(sys.prefix) / "bin" / "activate"
    if Path(shutil.which("nmt-translate") or "").parent != activate.parent and activate.exists():
        yield f"    . {shlex.quote(os.path.relpath(activate))}"
    yield f'    echo "The old cat sleeps." | nmt-translate --model {model}'
    yield f"    nmt-translate --model {model} < FILE                # your own text, one sentence per line"
    if not can_plot:
        yield f"    pip install matplotlib && nmt-analyze --model {model} --live    # plots, too"
    yield "\nand open in a browser:\n"
    for path in (run.path / "analysis" / "live.html", run.path / "analysis" / "attention.html", run.learning_curve):
        if path.exists():
            yield f"    {path.resolve().as_uri()}"


def _step(command: Sequence[str]) -> int:
    """Print and run one command of the package; its exit status."""
    print(f"\n$ {shlex.join(command)}", flush=True)
    module = f"nmt_rela.commands.{command[0].removeprefix('nmt-')}"
    return subprocess.run([sys.executable, "-m", module, *command[1:]], check=False).returncode


def _show_examples(config: Config) -> None:
    """Print a few test sentences spread over the set, with reference and translation."""
    from nmt_rela.checkpoints.run_directory import RunDirectory
    from nmt_rela.preparation.pipeline import load_prepared
    from nmt_rela.utils.text import read_lines

    test = load_prepared(config.data).tests[0]
    directory = Path(config.run_dir) / "evaluation" / RunDirectory(config.run_dir).checkpoint().name
    columns = [list(read_lines(path)) for path in (test.source, test.target, directory / f"{test.name}.txt")]
    print(f"\nExamples from {test.name}:")
    for number in range(0, len(columns[0]), max(1, len(columns[0]) // EXAMPLES)):
        for label, lines in zip(("source", "reference", "translation"), columns, strict=True):
            print(f"  {label:<12}{lines[number]}")
        print(flush=True)


if __name__ == "__main__":
    sys.exit(main())
