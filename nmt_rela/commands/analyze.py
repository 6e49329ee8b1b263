"""See what the heads of one or more runs attend to: numbers, plots and one self-contained HTML page.

The models read a text with its reference translation (teacher forcing). Layers and heads count from 0.

    nmt-analyze --model runs/demo
    nmt-analyze --model runs/demo-rela-g --model runs/demo-softmax --output compare
    nmt-analyze --model runs/demo --source in.en --target in.de --gold in.align
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from nmt_rela.commands import cli
from nmt_rela.commands.model_arguments import override_decoding
from nmt_rela.utils.errors import DataError, did_you_mean

if TYPE_CHECKING:
    from nmt_rela.analysis.pipeline import AnalysisData, RunAnalysis
    from nmt_rela.config.schema import Config
    from nmt_rela.metrics.word_alignment import GoldAlignment

log = logging.getLogger("nmt_rela.analysis")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command ``nmt-analyze``."""
    return cli.run("nmt-analyze", _analyze, arguments)


def _parser() -> argparse.ArgumentParser:
    parser = cli.make_parser("nmt-analyze", __doc__)
    parser.add_argument(
        "--model", action="append", required=True, metavar="RUN", help="a run directory; repeat to compare"
    )
    parser.add_argument(
        "--checkpoint", metavar="NAME", help="average, best, last or step_N (default: the first there is)"
    )
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="where files go (default: RUN/analysis of the first run)"
    )
    parser.add_argument(
        "--test-set", default="test", metavar="NAME", help="test (default), dev, or the name of a test set"
    )
    parser.add_argument("--source", type=Path, metavar="FILE", help="a text of your own, with --target")
    parser.add_argument("--target", type=Path, metavar="FILE", help="its reference translation, line by line")
    parser.add_argument("--gold", type=Path, metavar="FILE", help="gold word links, Pharaoh, source word first, from 0")
    parser.add_argument("--gold-reversed", action="store_true", help="the gold file has the target word first")
    parser.add_argument("--sentences", type=int, default=0, metavar="N", help="only the first N pairs (default: all)")
    parser.add_argument(
        "--ablate-heads", type=int, default=0, metavar="N", help="switch heads off, and look at quality, on N pairs"
    )
    parser.add_argument(
        "--page-sentences", type=int, default=100, metavar="N", help="sentences on the page (default: 100)"
    )
    parser.add_argument(
        "--sentence", type=int, metavar="LINE", help="the line drawn as a heatmap (default: a short one)"
    )
    parser.add_argument(
        "--layer",
        type=int,
        metavar="L",
        help="the cross-attention layer drawn (default: the best aligned, or the last)",
    )
    parser.add_argument("--plots", default="png", metavar="LIST", help="png (default), svg or pdf, or several: png,svg")
    parser.add_argument("--no-plots", action="store_true", help="draw nothing (matplotlib is then not needed)")
    parser.add_argument("--device", default="auto", help="auto (default), cpu, cuda or cuda:N")
    cli.add_overrides(parser)  # of the decoding that --ablate-heads judges by
    return parser


def _analyze(arguments: Sequence[str] | None) -> None:
    parser = _parser()
    options = cli.parse(parser, arguments)
    formats = _check(parser, options)

    from nmt_rela.analysis import plots
    from nmt_rela.analysis.pipeline import analyze_run
    from nmt_rela.analysis.writers import alignment_summary, plot_all, summary, write_all
    from nmt_rela.checkpoints.run_directory import RunDirectory
    from nmt_rela.generation.device import resolve_device

    if formats:
        plots.require_matplotlib()
    device = resolve_device(options.device)
    directories = [RunDirectory(path) for path in options.model]
    configs = [directory.config() for directory in directories]
    decodings = [override_decoding(config, options.overrides) for config in configs]
    text = _text(options, configs[0])
    picture = _picture(options, text)
    analyses: list[RunAnalysis] = []
    for directory, config, decoding, name in zip(directories, configs, decodings, _names(options.model), strict=True):
        model = directory.load_model(options.checkpoint, device=device)
        with _bars(name) as progress:
            analyses.append(
                analyze_run(
                    model,
                    directory.vocabularies(),
                    text,
                    name=name,
                    max_length=config.data.max_length,
                    page_sentences=options.page_sentences,
                    picture=picture,
                    ablation_sentences=options.ablate_heads,
                    decoding=decoding,
                    progress=progress,
                )
            )
        del model
    print(summary(analyses))
    if text.gold is not None:
        print("\n" + alignment_summary(analyses))
    output = options.output or directories[0].path / "analysis"
    written = write_all(output, text, analyses)
    if formats:
        written += plot_all(output / "plots", analyses, layer=options.layer, formats=formats)
    print()
    for path in written:
        print(path)


def _check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> list[str]:
    """Refuse what does not fit together; the formats of the plots."""
    if (options.source is None) != (options.target is None):
        parser.error("--source and --target go together")
    for name, low in (("sentences", 0), ("ablate_heads", 0), ("page_sentences", 0), ("sentence", 1), ("layer", 0)):
        value = getattr(options, name)
        if value is not None and value < low:
            parser.error(f"--{name.replace('_', '-')} {value}: accepted: a number from {low}")
    if options.no_plots:
        return []
    formats: list[str] = options.plots.split(",")
    for wanted in formats:
        if wanted not in ("png", "svg", "pdf"):
            parser.error(f"--plots {wanted}: {did_you_mean(wanted, ('png', 'svg', 'pdf'))}")
    return formats


def _text(options: argparse.Namespace, config: Config) -> AnalysisData:
    from nmt_rela.analysis.pipeline import AnalysisData
    from nmt_rela.preparation.cleaning import normalization_for
    from nmt_rela.preparation.pipeline import load_prepared
    from nmt_rela.utils.text import read_parallel

    gold, tokenizer = options.gold, "13a"
    if options.source is not None:
        name, source, target = options.source.name, options.source, options.target
    else:
        prepared = load_prepared(config.data)
        sets = {"dev": prepared.dev} | {found.name: found for found in prepared.tests}
        if prepared.tests:
            sets.setdefault("test", prepared.tests[0])
        if options.test_set not in sets:
            raise DataError(f"--test-set {options.test_set}: {did_you_mean(options.test_set, sets)}")
        chosen = sets[options.test_set]
        name, source, target, tokenizer = chosen.name, chosen.source, chosen.target, chosen.bleu_tokenizer
        gold = gold or chosen.gold_alignments
    data = config.data
    normalise = [
        normalization_for(language, romanian=data.romanian_diacritics)
        for language in (data.source_language, data.target_language)
    ]
    lines = [(normalise[0](left), normalise[1](right)) for left, right in read_parallel(source, target)]
    if not lines:
        raise DataError(f"{source}: no sentence pair to analyse")
    links = None if gold is None else _gold(gold, len(lines), reverse=options.gold_reversed)
    count = options.sentences or len(lines)
    return AnalysisData(
        name=name, lines=lines[:count], gold=None if links is None else links[:count], bleu_tokenizer=tokenizer
    )


def _gold(path: Path, sentences: int, *, reverse: bool) -> list[GoldAlignment]:
    from nmt_rela.metrics.word_alignment import GoldAlignment, read_pharaoh

    links = read_pharaoh(path)
    if len(links) != sentences:
        raise DataError(f"{path}: {len(links)} lines of gold links for {sentences} sentence pairs")
    if not reverse:
        return links
    return [
        GoldAlignment(
            sure=frozenset((j, i) for i, j in found.sure), possible=frozenset((j, i) for i, j in found.possible)
        )
        for found in links
    ]


def _picture(options: argparse.Namespace, text: AnalysisData) -> int:
    """The place of the sentence to draw: the one asked for, or the first of a length that makes a good picture."""
    if options.sentence is None:
        words = [max(len(side.split()) for side in pair) for pair in text.lines]
        return next((i for i, count in enumerate(words) if 6 <= count <= 20), 0)
    if options.sentence > len(text.lines):
        raise DataError(f"--sentence {options.sentence}: {text.name} has {len(text.lines)} lines")
    return int(options.sentence) - 1


def _names(paths: Sequence[str]) -> list[str]:
    """The runs' names: of their directories, numbered where two have the same."""
    names: list[str] = []
    for path in paths:
        name = Path(path).resolve().name
        names.append(name if name not in names else f"{name} ({names.count(name) + 1})")
    return names


@contextmanager
def _bars(name: str) -> Iterator[_Bars]:
    bars = _Bars(name)
    try:
        yield bars
    finally:
        bars.close()


class _Bars:
    """Progress bars on a terminal, plain log lines elsewhere."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._bars: list[_Bar] = []

    def __call__(self, what: str, steps: int) -> _Bar:
        log.info("%s: %s, %d steps", self._name, what, steps)
        self._bars.append(_Bar(f"{self._name}: {what}", steps))
        return self._bars[-1]

    def close(self) -> None:
        """Take the bars off the terminal."""
        for bar in self._bars:
            bar.close()


class _Bar:
    def __init__(self, label: str, steps: int) -> None:
        from tqdm import tqdm

        self._bar = tqdm(total=steps, desc=label, disable=None, leave=False)

    def update(self, count: int) -> None:
        """So many steps more are done."""
        self._bar.update(count)

    def close(self) -> None:
        """Take the bar off the terminal."""
        self._bar.close()


if __name__ == "__main__":
    raise SystemExit(main())
