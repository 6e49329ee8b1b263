"""Average the weights of a run's checkpoints, the last ones or the best; the result is the run's default model."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from nmt_rela.commands import cli

LOG = logging.getLogger("nmt_rela")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command ``nmt-average``."""
    return cli.run("nmt-average", _average, arguments)


def _average(arguments: Sequence[str] | None) -> None:
    parser = cli.make_parser("nmt-average", __doc__)
    parser.add_argument("--model", required=True, type=cli.path, metavar="RUN", help="a run directory")
    which, count = parser.add_mutually_exclusive_group(), cli.number_from(1)
    which.add_argument(
        "--last",
        type=count,
        metavar="N",
        help="average the newest N checkpoints (default: 5, or all if there are fewer)",
    )
    which.add_argument("--best", type=count, metavar="N", help="average the N checkpoints of best validation score")
    options = cli.parse(parser, arguments)

    from nmt_rela.checkpoints.averaging import average_run
    from nmt_rela.checkpoints.run_directory import AVERAGE, RunDirectory
    from nmt_rela.export.model_card import write_model_card

    run = RunDirectory(options.model)
    run.config()  # raises if this is no run directory
    names = average_run(run, options.best or options.last, by_score=options.best is not None)
    write_model_card(run)  # without the scores of an earlier average
    LOG.info("%s is the average of %s", run.path / AVERAGE, ", ".join(names))


if __name__ == "__main__":
    raise SystemExit(main())
