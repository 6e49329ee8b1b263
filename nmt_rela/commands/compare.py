"""Compare runs: scores of the sets that they share, learning curves, speed, and the settings that differ.

    nmt-compare runs/softmax runs/rela-g                       as text
    nmt-compare runs/softmax runs/rela-g --output comparison   and as Markdown, HTML and a picture of the curves

Scores are those that nmt-evaluate has stored in the runs; p-values compare with the first run. Nothing is written into
the runs.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from nmt_rela.commands import cli

LOG = logging.getLogger("nmt_rela")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command ``nmt-compare``."""
    return cli.run("nmt-compare", _compare, arguments)


def _compare(arguments: Sequence[str] | None) -> None:
    parser = cli.make_parser("nmt-compare", __doc__)
    parser.add_argument("runs", nargs="+", type=cli.path, metavar="RUN", help="run directories")
    parser.add_argument(
        "--output",
        type=cli.output_directory,
        metavar="DIR",
        help="write comparison.md, comparison.html and learning_curves.png there",
    )
    options = cli.parse(parser, arguments)

    from nmt_rela.reporting.comparison import compare_runs

    text, files = compare_runs(options.runs, options.output)
    print(text, end="")
    for path in files:
        LOG.info("%s", path)


if __name__ == "__main__":
    raise SystemExit(main())
