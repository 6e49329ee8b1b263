"""Train a model: prepare the data if needed, train, validate, write checkpoints.

The same command again continues the run from its last checkpoint. --model RUN continues a run where it lies, also when
it was moved, with its own configuration and the given overrides. All visible GPUs are used. On several machines
prepare the data first (nmt-prepare), then run: torchrun … -m nmt_rela.commands.train --config FILE
"""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr

from nmt_rela.commands import cli
from nmt_rela.config.loader import name_file_of_setting
from nmt_rela.utils.errors import EXIT_USER_ERROR, ConfigError, UserError

#: Seconds after which a silent rank ends by itself. torchrun ends all ranks with the first, which must have printed.
_SILENT_SECONDS = 3.0


def main(arguments: Sequence[str] | None = None) -> int:
    """The command ``nmt-train``. It is no function under ``cli.run``, to keep the way to the gradient short."""
    try:
        parser = cli.make_parser("nmt-train", __doc__)
        cli.add_config_arguments(parser, required=False)
        parser.add_argument(
            "--model", type=cli.path, metavar="RUN", help="the directory of a run to continue, instead of --config"
        )
        parser.add_argument(
            "--restart", action="store_true", help="start over; an earlier run of that name is moved aside, not deleted"
        )
        with _first_rank_reports():
            options = cli.parse(parser, arguments)
            cli.refuse_pairs(parser, options, ["--config excludes --model", "--print-config excludes --restart"])
            if options.model is not None:
                _name_configuration(options)
            elif options.config is None:
                parser.error("found neither --config nor --model; accepted: one of them")
            if int(os.environ.get("GROUP_WORLD_SIZE", 1)) > 1:
                _check_launcher(restart=options.restart)
            config = cli.read_config(options)

        from nmt_rela.preparation.pipeline import prepare
        from nmt_rela.training import launch

        with name_file_of_setting(options.config, options.overrides):
            code = launch.run(
                config,
                lambda: prepare(config.data, needs_links=config.training.guided_alignment.weight > 0),
                restart=options.restart,
                arguments=list(sys.argv[1:] if arguments is None else arguments),
            )
    except BaseException as error:
        code = cli.report("nmt-train", error)
    if "RANK" in os.environ:
        # At once: in a regular exit, threads of gloo whose peers are gone may abort the process.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def _name_configuration(options: argparse.Namespace) -> None:
    """Turn ``--model RUN`` into the configuration that the run holds, for the place where it lies now."""
    if moved := [override for override in options.overrides if re.match(r"\s*run_dir\s*=", override)]:
        raise ConfigError(f"override '{moved[0]}': --model {options.model} is the run directory; accepted: one of them")
    options.config = os.path.join(options.model, "config.yaml")
    if not os.path.isfile(options.config):
        raise ConfigError(f"--model: {options.model} is no run directory, it has no config.yaml; accepted: a run")
    options.overrides = [f"run_dir={json.dumps(str(options.model), ensure_ascii=False)}", *options.overrides]


def _check_launcher(*, restart: bool) -> None:
    """Refuse options with which the ranks of several machines would hang, or lose the run, when torchrun restarts them.

    They are refused before the ranks join: torchrun repeats the attempt.
    """
    if restart:
        raise UserError(
            "--restart: not accepted on several machines, where a node that comes back would start over again; "
            "move the run aside, or choose another run_dir=…"
        )
    is_store_kept = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    if is_store_kept and os.environ.get("TORCHELASTIC_MAX_RESTARTS") != "0":
        raise UserError(
            "torchrun: found --max-restarts on several machines, with a store that keeps addresses of dead ranks; "
            "accepted: --rdzv-backend=c10d and TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 in torchrun's environment"
        )


@contextmanager
def _first_rank_reports() -> Iterator[None]:
    """Only the first rank of a machine prints an error of the arguments or the configuration, which all ranks read."""
    if int(os.environ.get("LOCAL_RANK", 0)) == 0:
        yield
        return
    try:
        with redirect_stderr(io.StringIO()):
            yield
    except (UserError, SystemExit) as end:
        time.sleep(_SILENT_SECONDS)
        raise SystemExit(end.code if isinstance(end, SystemExit) else EXIT_USER_ERROR) from None


if __name__ == "__main__":
    raise SystemExit(main())
