"""Everything about one run and one text: teacher-forced once, listened to by all that want to know."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
from torch import Tensor

from nmt_rela.analysis.alignment import AlignmentConsumer, LayerAlignment, Words
from nmt_rela.analysis.head_ablation import (
    ABLATION_STEPS,
    Correlation,
    HeadAblation,
    auc,
    measure_heads,
    null_rate_correlations,
)
from nmt_rela.analysis.html_page import PageSentence, pack_weights
from nmt_rela.analysis.statistics import LayerStatistics
from nmt_rela.analysis.teacher_forcing import (
    Pair,
    Progress,
    StatisticsConsumer,
    TeacherForcedBatch,
    encode_pairs,
    teacher_forced_pass,
)
from nmt_rela.config.schema import DecodingConfig
from nmt_rela.data.tokenizer import TokenizerPair
from nmt_rela.generation.options import TranslationOptions
from nmt_rela.generation.translator import Translator
from nmt_rela.metrics.bleu import compute_scores
from nmt_rela.metrics.word_alignment import GoldAlignment, word_ids
from nmt_rela.models.transformer import SITES, Transformer
from nmt_rela.utils.errors import DataError

log = logging.getLogger(__name__)

# Longer sentences are analysed but not put on the page: nobody reads such a matrix.
_PAGE_LENGTH = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class AnalysisData:
    """Sentence pairs to look at."""

    name: str
    lines: Sequence[tuple[str, str]]
    #: Gold word links of every pair, source word first.
    gold: Sequence[GoldAlignment] | None = None
    #: What BLEU splits words with.
    bleu_tokenizer: str = "13a"


@dataclass(frozen=True, kw_only=True, slots=True)
class QualityStudy:
    """Whether null rows tell good translations from bad ones."""

    sentences: int
    #: Null rate when reading the model's own greedy translations, with their chrF.
    translation_chrf: tuple[Correlation, ...]
    #: By site: how often a source with another sentence's target has a higher null rate than with its own (0.5:
    #: chance).
    mismatch_separation: Mapping[str, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class RunAnalysis:
    """What was found out about one run."""

    name: str
    #: The attention kind of each site.
    attention: Mapping[str, str]
    sentences: int
    #: Pairs left out because one side has more sub-words than the run takes.
    overlong: int
    source_subwords: int
    target_subwords: int
    #: Negative log-likelihood in nats a target sub-word.
    loss: float
    layers: Sequence[LayerStatistics]
    alignment: Sequence[LayerAlignment]
    #: Pairs whose words are not those of the text split at white space, left out of the alignment.
    alignment_left_out: int
    #: Pharaoh lines by (layer, head or AVERAGE, mode).
    pharaoh: Mapping[tuple[int, int, str], Sequence[str]]
    #: Null rate with each sentence's mean log-probability of the reference.
    log_probability_correlations: Sequence[Correlation]
    ablation: HeadAblation | None
    quality: QualityStudy | None
    page: Sequence[PageSentence | None]
    #: Weights [layers, heads, queries, keys] by site, of the sentence that was asked for.
    picture: Mapping[str, npt.NDArray[np.float32]]
    picture_tokens: tuple[Sequence[str], Sequence[str]]


class _Recorder:
    """Keeps the weights of chosen sentences: packed at once for the page, as they are for the picture."""

    def __init__(self, wanted: Collection[int], picture: int, modules: int) -> None:
        self._wanted, self._picture, self._modules = wanted, picture, modules
        self._open: dict[int, dict[tuple[str, int], npt.NDArray[np.float32]]] = {}
        self.packed: dict[int, str] = {}
        self.picture: dict[str, npt.NDArray[np.float32]] = {}

    def __call__(self, batch: TeacherForcedBatch, site: str, layer: int, weights: Tensor) -> None:
        for row, pair in enumerate(batch.pairs):
            if pair.index not in self._wanted and pair.index != self._picture:
                continue
            queries = len(pair.source if site == "encoder" else pair.target)
            keys = len(pair.target if site == "decoder" else pair.source)
            seen = self._open.setdefault(pair.index, {})
            seen[site, layer] = weights[row, :, :queries, :keys].cpu().numpy().copy()
            if len(seen) == self._modules:
                self._close(pair.index)

    def _close(self, index: int) -> None:
        seen = self._open.pop(index)
        layers = {site: sorted(layer for found, layer in seen if found == site) for site in SITES}
        whole = {site: np.stack([seen[site, layer] for layer in layers[site]]) for site in SITES}
        if index in self._wanted:
            self.packed[index] = pack_weights(whole)
        if index == self._picture:
            self.picture = whole


def analyze_run(
    model: Transformer,
    vocabularies: TokenizerPair,
    text: AnalysisData,
    *,
    name: str,
    max_length: int = 256,
    page_sentences: int = 100,
    picture: int = 0,
    ablation_sentences: int = 0,
    decoding: DecodingConfig | None = None,
    progress: Callable[[str, int], Progress] | None = None,
) -> RunAnalysis:
    """Analyse a model in evaluation mode on a text.

    ``page_sentences`` of the first sentences are kept for the page, sentence ``picture`` (from 0) for the heatmap.
    ``ablation_sentences`` of the first are used to switch heads off and to look at quality (0: neither).
    ``max_length`` is in sub-words per side. ``progress(what, steps)`` makes progress displays.
    Raises DataError when no pair is left.
    """
    if text.gold is not None and len(text.gold) != len(text.lines):
        raise DataError(f"{text.name}: {len(text.gold)} gold alignments for {len(text.lines)} sentence pairs")
    show = progress or _silent
    everything = encode_pairs(text.lines, vocabularies)
    pairs = [pair for pair in everything if pair.longest <= max_length]
    if not pairs:
        raise DataError(f"{text.name}: no sentence pair of at most {max_length} sub-words a side")
    if len(pairs) < len(everything):
        log.warning(
            "%s: %d pairs of more than %d sub-words left out", text.name, len(everything) - len(pairs), max_length
        )
    statistics = StatisticsConsumer()
    words = {pair.index: known for pair in pairs if (known := _words(text, vocabularies, pair)) is not None}
    links = AlignmentConsumer(words, text.gold)
    on_page = {pair.index for pair in pairs if pair.index < page_sentences and pair.longest <= _PAGE_LENGTH}
    recorder = _Recorder(on_page, picture, len(model.attention_modules()))
    found = teacher_forced_pass(model, pairs, [statistics, links, recorder], progress=show("read", len(pairs)))
    layers = statistics.statistics.layers()
    lengths = np.array([len(pair.target) for pair in pairs])
    ablation, quality = None, None
    if ablation_sentences:
        studied = [pair for pair in pairs if pair.index < ablation_sentences] or pairs[:ablation_sentences]
        translator = Translator(
            model,
            vocabularies,
            options=TranslationOptions.from_config(decoding or DecodingConfig()),
            device=next(model.parameters()).device,
            max_source_length=max_length,
        )
        heads = sum(layer.heads for layer in layers)
        ablation = measure_heads(
            model,
            studied,
            layers,
            bleu=partial(_bleu, translator, text, studied),
            progress=show("heads off", heads + ABLATION_STEPS + 1),
        )
        quality = study_quality(model, translator, vocabularies, text, studied)
    by_index = {pair.index: (pair, float(value)) for pair, value in zip(pairs, found, strict=True)}
    pieces = {index: (_pieces(vocabularies, by_index[index][0])) for index in [*on_page, picture] if index in by_index}
    return RunAnalysis(
        name=name,
        attention={site: module.kind for (site, layer), module in model.attention_modules().items() if layer == 0},
        sentences=len(pairs),
        overlong=len(everything) - len(pairs),
        source_subwords=sum(len(pair.source) for pair in pairs),
        target_subwords=int(lengths.sum()),
        loss=float(-found.sum() / lengths.sum()),
        layers=layers,
        alignment=links.scores(),
        alignment_left_out=len(pairs) - len(words),
        pharaoh=links.pharaoh(len(text.lines)),
        log_probability_correlations=null_rate_correlations(statistics.null_rates(pairs), found / lengths),
        ablation=ablation,
        quality=quality,
        page=[
            PageSentence(
                source=pieces[index][0],
                target=pieces[index][1],
                log_probability=by_index[index][1],
                weights=recorder.packed[index],
            )
            if index in on_page
            else None
            for index in range(min(page_sentences, len(text.lines)))
        ],
        picture=recorder.picture,
        picture_tokens=pieces.get(picture, ((), ())),
    )


def study_quality(
    model: Transformer,
    translator: Translator,
    vocabularies: TokenizerPair,
    text: AnalysisData,
    pairs: Sequence[Pair],
) -> QualityStudy:
    """Does the null rate go with quality?

    Against the chrF of the model's own translations, and on pairs that do not belong together (each source with the
    target of another sentence of like length).
    """
    from sacrebleu.metrics.chrf import CHRF

    translated = _translate(translator, text, pairs)
    chrf = CHRF()
    qualities = [
        chrf.sentence_score(line, [text.lines[pair.index][1]]).score
        for line, pair in zip(translated, pairs, strict=True)
    ]
    own = encode_pairs(
        [(text.lines[p.index][0], line) for p, line in zip(pairs, translated, strict=True)], vocabularies
    )
    order = sorted(pairs, key=lambda pair: (len(pair.target), pair.index))
    others = order[1:] + order[:1]
    crossed = [Pair(pair.index, pair.source, other.target) for pair, other in zip(order, others, strict=True)]
    matched, mismatched = _null_rates(model, order), _null_rates(model, crossed)
    return QualityStudy(
        sentences=len(pairs),
        translation_chrf=tuple(null_rate_correlations(_null_rates(model, own), qualities)),
        mismatch_separation={site: auc(_site_mean(matched, site), _site_mean(mismatched, site)) for site in SITES},
    )


def _null_rates(model: Transformer, pairs: Sequence[Pair]) -> dict[tuple[str, int], npt.NDArray[np.float32]]:
    consumer = StatisticsConsumer()
    teacher_forced_pass(model, pairs, [consumer])
    return consumer.null_rates(pairs)


def _site_mean(rates: Mapping[tuple[str, int], npt.NDArray[np.float32]], site: str) -> npt.NDArray[np.float32]:
    mean: npt.NDArray[np.float32] = np.mean(
        [r.mean(axis=1) for (found, _), r in rates.items() if found == site], axis=0
    )
    return mean


def _translate(translator: Translator, text: AnalysisData, pairs: Sequence[Pair]) -> list[str]:
    translations = translator.translate([text.lines[pair.index][0] for pair in pairs], beam_size=1)
    return [translation.hypotheses[0].text for translation in translations]


def _bleu(translator: Translator, text: AnalysisData, pairs: Sequence[Pair]) -> float:
    references = [text.lines[pair.index][1] for pair in pairs]
    return compute_scores(_translate(translator, text, pairs), references, tokenizer=text.bleu_tokenizer).bleu


def _pieces(vocabularies: TokenizerPair, pair: Pair) -> tuple[tuple[str, ...], tuple[str, ...]]:
    return tuple(vocabularies.source.pieces(pair.source)), tuple(vocabularies.target.pieces(pair.target))


def _words(text: AnalysisData, vocabularies: TokenizerPair, pair: Pair) -> Words | None:
    """The word of each sub-word, or None where they are not the words of the line."""
    source, target = (word_ids(pieces) for pieces in _pieces(vocabularies, pair))
    counts = [max(groups, default=-1) + 1 for groups in (source, target)]
    return (source, target) if counts == [len(line.split()) for line in text.lines[pair.index]] else None


class _Silent:
    def update(self, count: int) -> None:
        """Nothing is shown."""


def _silent(what: str, steps: int) -> Progress:
    return _Silent()
