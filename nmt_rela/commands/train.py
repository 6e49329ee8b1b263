"""Train a model: prepare the data if needed, train, validate, write checkpoints.

The same command again continues the run from its last checkpoint. All visible GPUs are used. On several machines
prepare the data first (nmt-prepare), then run: torchrun … -m nmt_rela.commands.train --config FILE
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from nmt_rela.commands import cli


def main(arguments: Sequence[str] | None = None) -> int:
    """The command ``nmt-train``."""
    with cli.exit_status("nmt-train") as status:
        parser = cli.make_parser("nmt-train", __doc__)
        cli.add_config_arguments(parser)
        parser.add_argument(
            "--restart", action="store_true", help="start over; an earlier run of that name is moved aside, not deleted"
        )
        options = cli.parse(parser, arguments)
        config = cli.read_config(options)

        from nmt_rela.preparation.pipeline import prepare
        from nmt_rela.training import launch

        status.code = launch.run(
            config,
            lambda: prepare(config.data),
            restart=options.restart,
            arguments=list(sys.argv[1:] if arguments is None else arguments),
        )
    return status.code


if __name__ == "__main__":
    raise SystemExit(main())
