"""Import a Marian model in the format of transformers, such as one of OPUS-MT, as a run directory.

DIR holds config.json, model.safetensors (or pytorch_model.bin without code), source.spm, target.spm and vocab.json. All
commands accept the run, and training.initialize_from continues it, also with another attention. What cannot be
represented is refused with all reasons. Needed: pip install 'nmt_rela[export]'.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from nmt_rela.commands import cli
from nmt_rela.utils.errors import ConfigError

LOG = logging.getLogger("nmt_rela")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command ``nmt-import``."""
    return cli.run("nmt-import", _import, arguments)


def _import(arguments: Sequence[str] | None) -> None:
    parser = cli.make_parser("nmt-import", __doc__)
    parser.add_argument("directory", type=cli.path, metavar="DIR", help="the folder of the model")
    parser.add_argument(
        "--output", type=cli.output_directory, metavar="RUN",
        help="the new run directory (default: runs/ and DIR's name)",
    )  # fmt: skip
    cli.add_overrides(parser)
    options = cli.parse(parser, arguments)

    from nmt_rela.checkpoints.safetensors_io import require_safetensors
    from nmt_rela.export.marian import import_marian

    folder: Path = options.directory
    output: Path = options.output or Path("runs") / folder.resolve().name
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such directory; accepted: a folder with config.json")
    if output.exists():
        raise ConfigError(f"--output {output}: exists already; accepted: a new folder")
    require_safetensors()
    config = import_marian(folder, output, options.overrides)
    LOG.info(
        "%s is a run that translates %s into %s; nmt-translate --model %s < text",
        output, *config.data.languages, output,
    )  # fmt: skip


if __name__ == "__main__":
    raise SystemExit(main())
