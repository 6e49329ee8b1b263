"""Analyse the attention heads of one or more runs: numbers, plots and one self-contained HTML page.

The models read a text with its reference translation (teacher forcing). Layers and heads count from 0.

    nmt-analyze --model runs/demo
    nmt-analyze --model runs/demo-rela-g --model runs/demo-softmax --output compare
    nmt-analyze --model runs/demo --source in.en --target in.de --gold in.align
    nmt-analyze --model runs/demo --model runs/demo-softmax --live    a page that translates by itself
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from nmt_rela.commands import cli
from nmt_rela.commands.model_arguments import add_checkpoint_argument, check_overrides, override_decoding
from nmt_rela.config.loader import name_file_of_setting
from nmt_rela.utils.errors import ConfigError, DataError
from nmt_rela.utils.files import check_writable

if TYPE_CHECKING:
    from nmt_rela.analysis.data import AnalysisData
    from nmt_rela.analysis.html_page import LivePart
    from nmt_rela.checkpoints.run_directory import RunDirectory
    from nmt_rela.config.schema import DataConfig, DecodingConfig
    from nmt_rela.models.transformer import Transformer

#: The decoding settings that translations of an option use.
_USED_SETTINGS = {
    "--ablate-heads": ("max_length_offset", "min_length", "batch_tokens"),
    "--live": ("beam_size", "length_penalty", "early_stopping", "max_length_offset", "min_length"),
}
_PAIRS = (
    "--source needs --target", "--target needs --source", "--source excludes --test-set",
    "--live-limit needs --live", "--live-bits needs --live",
    "--no-plots excludes --plots", "--no-plots excludes --sentence", "--no-plots excludes --layer",
)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """The command ``nmt-analyze``."""
    return cli.run("nmt-analyze", _analyze, arguments)


def _parser() -> argparse.ArgumentParser:
    parser = cli.make_parser("nmt-analyze", __doc__)
    add, count = parser.add_argument, cli.number_from(0)
    add(
        "--model",
        action="append",
        required=True,
        type=cli.path,
        metavar="RUN",
        help="a run directory; repeat to compare runs",
    )
    add_checkpoint_argument(parser)
    add(
        "--output",
        type=cli.output_directory,
        metavar="DIR",
        help="directory of the results (default: RUN/analysis of the first run)",
    )
    add("--test-set", metavar="NAME", help="test (default), dev, or the name of a test set of the task")
    add("--source", type=cli.input_file, metavar="FILE", help="a source text of your own; needs --target")
    add("--target", type=cli.input_file, metavar="FILE", help="the reference translation of --source, line by line")
    add(
        "--gold",
        type=cli.input_file,
        metavar="FILE",
        help="gold word alignment: Pharaoh format, source word first, from 0",
    )
    add("--gold-reversed", action="store_true", help="the gold file has the target word first")
    add("--sentences", type=count, default=0, metavar="N", help="analyse only the first N pairs (default: all)")
    add(
        "--ablate-heads", type=count, default=0, metavar="N",
        help="switch heads off, and compare null rates with translation quality, on the first N pairs (default: skip)",
    )  # fmt: skip
    add("--page-sentences", type=count, default=100, metavar="N", help="sentences on the page (default: 100; 0: none)")
    add("--live", action="store_true", help="also write live.html, which carries the models and translates by itself")
    add("--live-limit", type=cli.number_from(1), metavar="MB", help="the largest live page (default: 20 MB)")
    add(
        "--live-bits", type=cli.number_from(4, 8), metavar="N",
        help="bits per weight on the live page, 4 to 8 (default: 8); fewer make it smaller and cost quality",
    )  # fmt: skip
    line = cli.number_from(1)
    add("--sentence", type=line, metavar="LINE", help="line of the heatmap's sentence (default: a short one)")
    add(
        "--layer", type=count, metavar="L",
        help="cross-attention layer of the heatmap (default: the best aligned layer, or the last)",
    )  # fmt: skip
    add(
        "--plots", type=cli.list_of(cli.one_of(("png", "svg", "pdf"))), metavar="LIST",
        help="formats of the plots: png (default), svg, pdf; or png,svg",
    )  # fmt: skip
    add("--no-plots", action="store_true", help="draw no plots; matplotlib is not needed")
    add("--device", default="auto", help="auto (the GPU if there is one), cpu, cuda or cuda:N")
    cli.add_overrides(parser)  # decoding settings for the translations of --ablate-heads
    return parser


def _analyze(arguments: Sequence[str] | None) -> None:
    parser = _parser()
    options = cli.parse(parser, arguments)
    cli.refuse_pairs(parser, options, _PAIRS)
    translating = [option for option in _USED_SETTINGS if vars(options)[option[2:].replace("-", "_")]]
    if options.overrides and not translating:
        parser.error(f"{options.overrides[0]}: only translations, of --ablate-heads or --live, use decoding settings")
    used = dict.fromkeys(name for option in translating for name in _USED_SETTINGS[option])
    check_overrides(options.overrides, used, by=f"nmt-analyze {' '.join(translating)}")
    formats = [] if options.no_plots else options.plots or ["png"]

    import torch

    from nmt_rela.analysis import pipeline
    from nmt_rela.analysis.writers import alignment_table, statistics_table, write_analysis, write_plots
    from nmt_rela.checkpoints.run_directory import RunDirectory
    from nmt_rela.generation.device import resolve_device
    from nmt_rela.generation.heatmap import require_matplotlib
    from nmt_rela.generation.kernel_check import check_kernels

    if formats:
        require_matplotlib(", or use --no-plots")
    device = resolve_device(options.device)
    runs = [RunDirectory(path) for path in options.model]
    configs = [run.config() for run in runs]
    decodings = [override_decoding(config, options.overrides) for config in configs]
    for run, config in zip(runs, configs, strict=True):
        if options.layer is not None and options.layer >= config.model.decoder_layers:
            raise ConfigError(
                f"--layer: found {options.layer}; accepted for {run.path}: 0 to {config.model.decoder_layers - 1}"
            )
    output = options.output or runs[0].directory_of_results("analysis")
    check_writable(output, is_directory=True)
    data = _read_data(options, configs[0].data)
    heatmap_sentence = data.heatmap_sentence() if options.sentence is None else options.sentence - 1
    if heatmap_sentence >= len(data.lines):
        raise DataError(f"--sentence {options.sentence}: {data.name} has {len(data.lines)} lines")
    models = [run.load_model(options.checkpoint, device=device) for run in runs]
    live = _live_part(options, runs, models, decodings) if options.live else None
    for model in models:
        check_kernels(model, torch.float32, device)
    analyses = [
        pipeline.analyze_run(
            model,
            run.load_tokenizers(),
            data,
            name=name,
            max_length=config.data.max_length,
            page_sentences=options.page_sentences,
            heatmap_sentence=heatmap_sentence,
            ablation_sentences=options.ablate_heads,
            decoding=decoding,
        )
        for run, model, config, decoding, name in zip(
            runs, models, configs, decodings, _unique_names(options.model), strict=True
        )
    ]
    print(statistics_table(analyses))
    if data.gold is not None:
        print("\n" + alignment_table(analyses))
    written = write_analysis(output, data, analyses, live=live)
    if formats:
        written += write_plots(output / "plots", analyses, layer=options.layer, formats=formats)
    print("", *written, sep="\n")


def _live_part(
    options: argparse.Namespace,
    runs: Sequence[RunDirectory],
    models: Sequence[Transformer],
    decodings: Sequence[DecodingConfig],
) -> LivePart:
    """The models for the live page. Raises ConfigError where they are larger than --live-limit."""
    from nmt_rela.analysis.live_page import live_part

    part = live_part(runs, models, decodings, bits=options.live_bits or 8)
    limit = options.live_limit or 20
    if part.size > limit * 1e6:
        raise ConfigError(
            f"--live: the page takes {part.size / 1e6:.1f} MB; accepted: up to --live-limit, {limit} MB. "
            f"Ask for --live-limit {math.ceil(part.size / 1e6)}, or make it smaller with --live-bits"
        )
    return part


def _read_data(options: argparse.Namespace, config: DataConfig) -> AnalysisData:
    """The text of ``--source`` and ``--target``, or a set of the task."""
    from nmt_rela.analysis.data import read_analysis_data
    from nmt_rela.checkpoints.run_directory import RunDirectory
    from nmt_rela.data.languages import are_spaced
    from nmt_rela.data.normalization import normalization_for
    from nmt_rela.data.prepared_data import EvaluationSet
    from nmt_rela.preparation.pipeline import bleu_tokenizer_of, load_prepared

    if options.source is not None:
        files = EvaluationSet(
            name=options.source.name,
            source=options.source,
            target=options.target,
            bleu_tokenizer=bleu_tokenizer_of(config),
            gold_alignments=options.gold,
        )
    else:
        with name_file_of_setting(RunDirectory(options.model[0]).config_file):
            files = load_prepared(config).evaluation_set(options.test_set or "test")
        files = replace(files, gold_alignments=options.gold or files.gold_alignments)
    source, target = (normalization_for(language, config) for language in config.languages)
    return read_analysis_data(
        files,
        normalize=(source, target),
        spaced=are_spaced(config.languages),
        gold_reversed=options.gold_reversed,
        sentences=options.sentences,
    )


def _unique_names(paths: Sequence[Path]) -> list[str]:
    """The names of the run directories, numbered where two are the same."""
    names: list[str] = []
    for path in paths:
        name = path.resolve().name
        names.append(name if name not in names else f"{name} ({names.count(name) + 1})")
    return names


if __name__ == "__main__":
    raise SystemExit(main())
