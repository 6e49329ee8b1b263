"""Average the weights of a run's checkpoints, the last ones or the best; the result is the run's default model."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence

from nmt_rela.commands import cli
from nmt_rela.utils.errors import CheckpointError

log = logging.getLogger("nmt_rela")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command ``nmt-average``."""
    return cli.run("nmt-average", _average, arguments)


def _average(arguments: Sequence[str] | None) -> None:
    parser = cli.make_parser("nmt-average", __doc__)
    parser.add_argument("--model", required=True, metavar="RUN", help="a run directory")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--last", type=int, metavar="N", help="average the newest N checkpoints (default: 5)")
    which.add_argument("--best", type=int, metavar="N", help="average the N checkpoints of best validation score")
    options = cli.parse(parser, arguments)
    for name in ("last", "best"):
        count = getattr(options, name)
        if count is not None and count < 1:
            parser.error(f"--{name} {count}: accepted: a number from 1")

    from nmt_rela.checkpoints.checkpoint import (
        average,
        list_checkpoints,
        load_state,
        verify_checkpoint,
        write_checkpoint,
    )
    from nmt_rela.checkpoints.run_directory import AVERAGE, RunDirectory

    run = RunDirectory(options.model)
    run.config()  # is it a run at all?
    steps = ranked = list_checkpoints(run.checkpoints)
    if options.best is not None:
        scores = {path: score for path in steps if (score := load_state(path).get("score")) is not None}
        ranked = sorted(scores, key=lambda path: (float(scores[path]), -steps.index(path)))
    wanted = options.best or options.last or 5
    if len(ranked) < wanted:
        kind = "validated checkpoints" if options.best is not None else "checkpoints"
        raise CheckpointError(f"{run.checkpoints}: {wanted} {kind} are asked for, there are {len(ranked)}")
    chosen = ranked[-wanted:]
    for path in chosen:
        verify_checkpoint(path)
    vocabularies = {load_state(path)["vocabulary"] for path in chosen}
    if len(vocabularies) > 1:
        raise CheckpointError(f"{run.checkpoints}: checkpoints of {len(vocabularies)} different vocabularies")
    state = {
        "vocabulary": vocabularies.pop(),
        "averaged": [path.name for path in chosen],
        "newest": steps[-1].name,
    }
    # Under a new name, which the link takes on in one step: at no moment is there no average, or half of one.
    earlier = sorted(run.checkpoints.glob(f"{AVERAGE}_*"))
    numbers = [int(number) for path in earlier if (number := path.name.removeprefix(f"{AVERAGE}_")).isdecimal()]
    directory = run.checkpoints / f"{AVERAGE}_{max(numbers, default=0) + 1}"
    write_checkpoint(directory, tensors={"model": average(chosen)}, state=state)
    run.point(AVERAGE, directory.name)
    for path in earlier:
        shutil.rmtree(path, ignore_errors=True)
    log.info("%s is the average of %s", run.path / AVERAGE, ", ".join(state["averaged"]))


if __name__ == "__main__":
    raise SystemExit(main())
