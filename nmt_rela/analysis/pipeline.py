"""The analysis of one run on one text: one teacher-forced pass for all statistics, then head ablation."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from nmt_rela.analysis.alignment import AlignmentConsumer, Channel, LayerAlignment, PairWords
from nmt_rela.analysis.data import AnalysisData
from nmt_rela.analysis.head_ablation import ABLATION_STEPS, measure_heads
from nmt_rela.analysis.html_page import PageSentence, pack_weights
from nmt_rela.analysis.quality import Correlation, SentenceNullRates, measure_quality, null_rate_correlations
from nmt_rela.analysis.statistics import AttentionStatistics, LayerStatistics
from nmt_rela.analysis.teacher_forcing import (
    EncodedPair,
    SentenceWeights,
    WeightRecorder,
    encode_pairs,
    teacher_forced_pass,
)
from nmt_rela.config.schema import DecodingConfig
from nmt_rela.data.tokenizer import TokenizerPair
from nmt_rela.generation.options import TranslationOptions
from nmt_rela.generation.translator import Translator
from nmt_rela.metrics.translation import compute_scores
from nmt_rela.metrics.word_alignment import split_words, words_of_subwords
from nmt_rela.models.transformer import Transformer
from nmt_rela.utils.errors import DataError
from nmt_rela.utils.progress import ProgressBar

LOG = logging.getLogger(__name__)

#: Sub-words of the longest sentence on the page. Longer sentences are analysed but not shown.
_PAGE_LENGTH = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class RunAnalysis:
    """The result for one run."""

    name: str
    #: The attention variant of each site.
    attention: Mapping[str, str]
    sentences: int
    #: Pairs left out because one side has more sub-words than the run accepts.
    overlength: int
    source_subwords: int
    target_subwords: int
    #: Negative log-likelihood, in nats per target sub-word.
    loss: float
    layers: Sequence[LayerStatistics]
    alignment: Sequence[LayerAlignment]
    #: Pairs left out of the alignment because their sub-words do not form the words of the text.
    alignment_left_out: int
    pharaoh: Mapping[Channel, Sequence[str]]
    #: Null rate with the mean log-probability of the reference.
    log_probability_correlations: Sequence[Correlation]
    head_ablation: dict[str, Any] | None
    quality: dict[str, Any] | None
    #: The first sentences; None for a sentence that is too long.
    page: Sequence[PageSentence | None]
    #: Weights of the heatmap's sentence, and its source and target sub-words. Empty where it is too long.
    heatmap: SentenceWeights
    heatmap_subwords: tuple[Sequence[str], Sequence[str]]


def analyze_run(
    model: Transformer,
    tokenizers: TokenizerPair,
    data: AnalysisData,
    *,
    name: str,
    max_length: int = 256,
    page_sentences: int = 100,
    heatmap_sentence: int = 0,
    ablation_sentences: int = 0,
    decoding: DecodingConfig | None = None,
) -> RunAnalysis:
    """Analyse a model in evaluation mode.

    Args:
        model: the model, on any device.
        tokenizers: its tokenizers.
        data: the text.
        name: the name of the run in all output.
        max_length: sub-words per side; longer pairs are left out.
        page_sentences: how many of the first sentences are kept for the page.
        heatmap_sentence: the index of the sentence whose weights are kept.
        ablation_sentences: how many of the first sentences head ablation and translation quality use; 0 skips both.
        decoding: the settings of the translations.

    Raises:
        DataError: no pair is short enough, or the number of gold alignments is not that of the pairs.
    """
    if data.gold is not None and len(data.gold) != len(data.lines):
        raise DataError(f"{data.name}: {len(data.gold)} gold alignments for {len(data.lines)} sentence pairs")
    encoded = encode_pairs(data.lines, tokenizers)
    pairs = [pair for pair in encoded if pair.longest <= max_length]
    if not pairs:
        raise DataError(f"{data.name}: no sentence pair has at most {max_length} sub-words per side")
    overlength = len(encoded) - len(pairs)
    if overlength:
        LOG.warning("%s: %d pairs have more than %d sub-words per side; left out", data.name, overlength, max_length)

    modules = model.attention_modules()
    on_page = {pair.index for pair in pairs if pair.index < page_sentences and pair.longest <= _PAGE_LENGTH}
    packed: dict[int, str] = {}
    heatmap: dict[str, npt.NDArray[np.float32]] = {}

    def keep(index: int, weights: SentenceWeights) -> None:
        if index in on_page:
            packed[index] = pack_weights(weights)
        if index == heatmap_sentence:
            heatmap.update(weights)

    statistics, null_rates = AttentionStatistics(), SentenceNullRates()
    words = {pair.index: found for pair in pairs if (found := _words(data, tokenizers, pair)) is not None}
    alignment = AlignmentConsumer(words, data.gold)
    recorder = WeightRecorder(on_page | {heatmap_sentence}, len(modules), keep)
    with ProgressBar(f"{name}: reading {data.name}", unit="pairs", total=len(pairs)) as bar:
        log_probs = teacher_forced_pass(
            model, pairs, [statistics, null_rates, alignment, recorder], progress=bar.advance
        )
    layers = statistics.layers()
    lengths = np.array([len(pair.target) for pair in pairs])

    ablation, quality = None, None
    if ablation_sentences:
        chosen = [pair for pair in pairs if pair.index < ablation_sentences] or pairs[:ablation_sentences]
        options = TranslationOptions.from_config(decoding or DecodingConfig())
        device = next(model.parameters()).device
        translator = Translator(model, tokenizers, options=options, device=device, max_source_length=max_length)
        ablation, quality = _ablate(translator, data, chosen, layers, name=name)

    by_index = {pair.index: (pair, float(value)) for pair, value in zip(pairs, log_probs, strict=True)}

    def page_sentence(index: int) -> PageSentence:
        pair, log_prob = by_index[index]
        source, target = _subwords(tokenizers, pair)
        return PageSentence(source=source, target=target, log_probability=log_prob, weights=packed[index])

    return RunAnalysis(
        name=name,
        attention={site: module.variant for (site, layer), module in modules.items() if layer == 0},
        sentences=len(pairs),
        overlength=overlength,
        source_subwords=sum(len(pair.source) for pair in pairs),
        target_subwords=int(lengths.sum()),
        loss=float(-log_probs.sum() / lengths.sum()),
        layers=layers,
        alignment=alignment.scores(),
        alignment_left_out=len(pairs) - len(words),
        pharaoh=alignment.pharaoh(len(data.lines)),
        log_probability_correlations=null_rate_correlations(null_rates.of(pairs), log_probs / lengths),
        head_ablation=ablation,
        quality=quality,
        page=[
            page_sentence(index) if index in on_page else None for index in range(min(page_sentences, len(data.lines)))
        ],
        heatmap=heatmap,
        heatmap_subwords=_subwords(tokenizers, by_index[heatmap_sentence][0]) if heatmap else ((), ()),
    )


def _ablate(
    translator: Translator,
    data: AnalysisData,
    pairs: Sequence[EncodedPair],
    layers: Sequence[LayerStatistics],
    *,
    name: str,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The results of ``measure_heads`` and of ``measure_quality``, with greedy translations."""
    from sacrebleu.metrics.chrf import CHRF

    model, chrf = translator.models[0], CHRF()
    sources, references = zip(*(data.lines[pair.index] for pair in pairs), strict=True)

    def translate() -> list[str]:
        return [translation.text for translation in translator.translate(sources, beam_size=1)]

    def bleu() -> float:
        return float(compute_scores(translate(), references, tokenizer=data.bleu_tokenizer)["bleu"])

    heads = sum(layer.heads for layer in layers)
    with ProgressBar(f"{name}: switching off heads", unit="passes", total=heads + ABLATION_STEPS + 1) as bar:
        ablation = measure_heads(model, pairs, layers, bleu=bleu, progress=bar.advance)
    texts = translate()
    scores = [chrf.sentence_score(text, [reference]).score for text, reference in zip(texts, references, strict=True)]
    translated = encode_pairs(list(zip(sources, texts, strict=True)), translator.tokenizers)
    return ablation, measure_quality(model, pairs, translated, scores)


def _subwords(tokenizers: TokenizerPair, pair: EncodedPair) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The source and target sub-words of a pair."""
    source = tokenizers.source.convert_ids_to_pieces(pair.source)
    return tuple(source), tuple(tokenizers.target.convert_ids_to_pieces(pair.target))


def _words(data: AnalysisData, tokenizers: TokenizerPair, pair: EncodedPair) -> PairWords | None:
    """The words of each sub-word, or None where they are not those of the line."""
    found = []
    for tokenizer, line, spaced in zip(
        (tokenizers.source, tokenizers.target), data.lines[pair.index], data.spaced, strict=True
    ):
        (pieces,) = tokenizer.split([line])
        words = [*words_of_subwords(pieces, spaced=spaced), ()]  # the end of sentence has none
        if len(set(chain.from_iterable(words))) != len(split_words(line, spaced=spaced)):
            return None
        found.append(words)
    return found[0], found[1]
