"""Prepare the data of an experiment: fetch, read, clean, learn sub-words, encode.

Every stage is skipped where it is done already, and the same command again continues after an interruption.
NMT_RELA_MIRROR names a directory or URL that serves <mirror>/<host>/<path> instead of the internet.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from nmt_rela.commands import cli
from nmt_rela.config.loader import name_file_of_setting


def main(arguments: Sequence[str] | None = None) -> int:
    """The command ``nmt-prepare``."""
    return cli.run("nmt-prepare", _prepare, arguments)


def _prepare(arguments: Sequence[str] | None) -> None:
    parser = cli.make_parser("nmt-prepare", __doc__)
    cli.add_config_arguments(parser)
    parser.add_argument(
        "--json", action="store_true", help="print paths and the cleaning statistics of every source as JSON"
    )
    parser.add_argument(
        "--workers",
        type=cli.number_from(0, 512),
        default=0,
        metavar="N",
        help="threads that encode (0, the default: one per core)",
    )
    options = cli.parse(parser, arguments)
    cli.refuse_pairs(parser, options, ["--print-config excludes --json"])
    config = cli.read_config(options)

    from nmt_rela.preparation.cleaning_stats import format_stats
    from nmt_rela.preparation.pipeline import prepare

    with name_file_of_setting(options.config, options.overrides):
        prepared = prepare(config.data, workers=options.workers)
    if options.json:
        paths = {"directory": prepared.directory, "train": prepared.train, "tokenizer": prepared.tokenizer}
        tree = {**{name: str(path) for name, path in paths.items()}, "counts": prepared.counts}
        sys.stdout.write(json.dumps(tree, indent=1) + "\n")
    else:
        sys.stdout.writelines(f"{line}\n" for line in format_stats(prepared.counts))


if __name__ == "__main__":
    raise SystemExit(main())
