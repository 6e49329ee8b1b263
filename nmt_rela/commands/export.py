"""Export a run's model into a folder that other programs read.

ctranslate2: for CTranslate2, which supports softmax attention only; another model is an error that lists all reasons.
safetensors: weights, settings and sub-word models of any attention; commands accept the folder as a run directory.
huggingface: for transformers and the tools that use it, any attention; loading the folder needs this package.
Needed: pip install 'nmt_rela[export]', for huggingface 'nmt_rela[huggingface]'.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from nmt_rela.commands import cli
from nmt_rela.commands.model_arguments import add_checkpoint_argument
from nmt_rela.utils.errors import ConfigError

LOG = logging.getLogger("nmt_rela")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command ``nmt-export``."""
    return cli.run("nmt-export", _export, arguments)


def _export(arguments: Sequence[str] | None) -> None:
    parser = cli.make_parser("nmt-export", __doc__)
    parser.add_argument("--model", required=True, type=cli.path, metavar="RUN", help="a run directory")
    add_checkpoint_argument(parser)
    formats = ("ctranslate2", "safetensors", "huggingface")
    parser.add_argument("--format", required=True, choices=formats, help="format of the folder")
    parser.add_argument("--output", required=True, type=cli.output_directory, metavar="DIR", help="the new folder")
    parser.add_argument(
        "--quantization", metavar="TYPE",
        help="storage type of the weights: float32 (default), float16, bfloat16; for ctranslate2 also int16, int8, "
        "int8_float32, int8_float16, int8_bfloat16",
    )  # fmt: skip
    options = cli.parse(parser, arguments)

    from nmt_rela.checkpoints.run_directory import RunDirectory
    from nmt_rela.export import ctranslate2, hugging_face, safetensors

    export_run, accepted = {
        "ctranslate2": (ctranslate2.export_ctranslate2, ctranslate2.QUANTIZATIONS),
        "safetensors": (safetensors.export_safetensors, safetensors.QUANTIZATIONS),
        "huggingface": (hugging_face.export_hugging_face, hugging_face.QUANTIZATIONS),
    }[options.format]
    quantization = accepted[0] if options.quantization is None else options.quantization
    if quantization not in accepted:
        raise ConfigError(
            f"--quantization: found '{quantization}'; accepted for {options.format}: {', '.join(accepted)}"
        )
    if options.output.exists():
        raise ConfigError(f"--output {options.output}: exists already; accepted: a new folder")
    run = RunDirectory(options.model)
    export_run(run, options.output, checkpoint=options.checkpoint, quantization=quantization)
    LOG.info("%s contains the model; its README.md explains its use", options.output)


if __name__ == "__main__":
    raise SystemExit(main())
