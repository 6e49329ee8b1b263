"""Lines in, translations out. It sees text; the search sees logits only."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import fields, replace
from itertools import repeat
from pathlib import Path
from types import NoneType
from typing import Any, overload

import torch

from nmt_rela.checkpoints.run_directory import RunDirectory
from nmt_rela.config.schema import DecodingConfig
from nmt_rela.data.data_loader import pad_sequences
from nmt_rela.data.languages import are_spaced, writing_system
from nmt_rela.data.normalization import normalization_for
from nmt_rela.data.tokenizer import UNK, TokenizerPair
from nmt_rela.generation.alignment import WordAligner, default_alignment_heads
from nmt_rela.generation.arguments import check_lines, read_paths
from nmt_rela.generation.attention import SentenceAttention, encode_sentences, read_attention
from nmt_rela.generation.batching import batch_by_tokens, map_in_threads
from nmt_rela.generation.beam_search import beam_search
from nmt_rela.generation.decoding_step import Hypothesis, SearchConstraints, StepDecoder
from nmt_rela.generation.device import Precision, prepare_for_inference, resolve_batch_tokens, resolve_device
from nmt_rela.generation.ensemble import EnsembleDecoder
from nmt_rela.generation.minimum_bayes_risk import rank_by_expected_utility
from nmt_rela.generation.options import EMPTY, ScoringResult, Translation, TranslationHypothesis, TranslationOptions
from nmt_rela.generation.sampling import sample
from nmt_rela.generation.scoring import score_lines
from nmt_rela.generation.segmentation import Segment, count_given_words, join_segments, segment_lines
from nmt_rela.generation.streaming import MAX_CHUNK, Chunk, number_chunks, read_chunks
from nmt_rela.models.attention_capture import ObservableModels
from nmt_rela.models.decoders import start_decoder
from nmt_rela.models.transformer import Transformer
from nmt_rela.utils.errors import CheckpointError, ConfigError, DataError, did_you_mean, first_line
from nmt_rela.utils.memory import is_out_of_memory, trim_malloc

LOG = logging.getLogger(__name__)


class Translator:
    """Translates with one model, or with the mean of several that have the same vocabularies.

    Several threads may use one translator: it changes neither itself nor its models while it works.
    """

    def __init__(
        self,
        models: Transformer | Sequence[Transformer],
        tokenizers: TokenizerPair,
        *,
        options: TranslationOptions | None = None,
        device: str | torch.device = "cpu",
        max_source_length: int = 256,
        normalize_source: Callable[[str], str] = str,
        normalize_target: Callable[[str], str] = str,
        sentence_joiner: str = " ",
        spaced: tuple[bool, bool] = (True, True),
        alignment_heads: Sequence[tuple[int, int]] | None = None,
    ) -> None:
        """The models must lie on ``device``, and be in evaluation mode whenever a method is called.

        ``options`` are the defaults of ``translate``. A line of more than ``max_source_length`` sub-words (EOS
        counted) is translated in segments. ``normalize_source`` and ``normalize_target`` do to given text what was
        done to the training text of that language. ``sentence_joiner`` stands between translated segments.
        ``spaced``: whether source and target language have spaces between words, which alignments count.
        ``alignment_heads``: where alignments are read by default, as `WordAligner` has it.
        """
        self.models = (models,) if isinstance(models, Transformer) else tuple(models)
        self.tokenizers = tokenizers
        self.options = options or TranslationOptions()
        self.device = torch.device(device)
        self.max_source_length = max_source_length
        self.normalize_source = normalize_source
        self.normalize_target = normalize_target
        self.sentence_joiner = sentence_joiner
        self.spaced = spaced
        self._observable = ObservableModels(self.models)
        self._aligner = WordAligner(
            self.models,
            self._observable,
            tokenizers.target,
            device=self.device,
            spaced=spaced[1],
            default_heads=alignment_heads,
        )

    def __repr__(self) -> str:
        model, count = self.models[0], len(self.models)
        variants = dict.fromkeys(module.variant for module in model.attention_modules().values())
        return (
            f"<{type(self).__name__} {f'{count} models, ' * (count > 1)}{'/'.join(variants)}, "
            f"{len(model.encoder)}+{len(model.decoder)} layers, d_model {model.output_embedding.shape[1]}, "
            f"{self.tokenizers.source.size:,} → {self.tokenizers.target.size:,} sub-words, "
            f"beam_size {self.options.beam_size}, on {self.device}>"
        )

    @classmethod
    def load(
        cls,
        runs: str | Path | Sequence[str | Path],
        *,
        checkpoint: str | None = None,
        device: str = "auto",
        precision: Precision = "float32",
        decoding: DecodingConfig | None = None,
    ) -> Translator:
        """A translator from a run directory, or from several with the same vocabularies (an ensemble).

        ``checkpoint`` is average, best, last or step_N; the default is the first of these that exists. ``device`` auto
        is the GPU if there is one. ``decoding`` holds the default settings; without it they are those of the (first)
        run. Raises CheckpointError for runs that are missing, damaged or of different vocabularies, ConfigError for an
        unknown device.
        """
        resolved = resolve_device(device)
        directories = [RunDirectory(run) for run in read_paths(runs)]
        if not isinstance(checkpoint, (str, NoneType)):
            raise ConfigError(f"checkpoint: found {checkpoint!r}; accepted: average, best, last, step_N or None")
        if not isinstance(decoding, (DecodingConfig, NoneType)):
            raise ConfigError(f"decoding: found {decoding!r}; accepted: a DecodingConfig or None")
        configs = [directory.config() for directory in directories]
        tokenizers = directories[0].load_tokenizers()
        for directory in directories[1:]:
            if directory.load_tokenizers().fingerprint != tokenizers.fingerprint:
                raise CheckpointError(
                    f"{directory.path}: another vocabulary than {directories[0].path}; an ensemble needs the same"
                )
        models = [directory.load_model(checkpoint, device=resolved) for directory in directories]
        data = configs[0].data
        return cls(
            [prepare_for_inference(model, precision, resolved) for model in models],
            tokenizers,
            options=TranslationOptions.from_config(decoding or configs[0].decoding),
            device=resolved,
            max_source_length=data.max_length,
            normalize_source=normalization_for(data.source_language, data),
            normalize_target=normalization_for(data.target_language, data),
            sentence_joiner=writing_system(data.target_language).sentence_joiner,
            spaced=are_spaced(data.languages),
            alignment_heads=[default_alignment_heads(config) for config in configs],
        )

    def translate(
        self,
        lines: Iterable[str],
        options: TranslationOptions | None = None,
        *,
        prefixes: Iterable[str] | None = None,
        first_line: int = 0,
        progress: Callable[[int], None] | None = None,
        **overrides: Any,
    ) -> list[Translation]:
        """One translation per line, in order. All lines are read first, and sorted by length together.

        ``options`` default to ``self.options``; ``overrides`` replace single fields of ``TranslationOptions``, as in
        ``translate(lines, beam_size=1)``. ``prefixes`` are what each translation must begin with (whole words, "" for
        none). ``first_line`` is the number of the first line in its file, from 0: warnings name lines by it, and
        sampling depends on it. ``progress`` is called with the number of lines finished since its last call. Raises
        ConfigError for options out of range, DataError for lines that are no text.
        """
        options = self._options(options, overrides)
        if not isinstance(first_line, int) or first_line < 0:
            raise ConfigError(f"first_line: found {first_line!r}; accepted: a whole number from 0")
        if progress is not None and not callable(progress):
            raise ConfigError(f"progress: found {progress!r}; accepted: a function of a number of lines, or None")
        lines = list(check_lines(lines, "lines"))
        prefixes = None if prefixes is None else list(check_lines(prefixes, "prefixes"))
        if prefixes is not None and len(prefixes) != len(lines):
            raise DataError(f"prefixes: found {len(prefixes):,} for {len(lines):,} lines; accepted: one per line")
        assert not any(model.training for model in self.models), "translating with dropout on"
        segments = self._segments(lines, options, first_line=first_line, prefixes=prefixes)
        hypotheses: list[list[TranslationHypothesis]] = [[] for _ in segments]
        open_segments = [0] * len(lines)  # segments of each line that are not translated yet
        for segment in segments:
            open_segments[segment.line] += 1
        if progress is not None:
            progress(open_segments.count(0))
        threads = torch.get_num_threads() if self.device.type == "cpu" else 1
        lengths = [len(segment.ids) for segment in segments]
        batch_tokens = resolve_batch_tokens(options.batch_tokens, self.device) // options.num_sequences
        batches = list(batch_by_tokens(lengths, batch_tokens, threads=threads))

        def decode(batch: Sequence[int]) -> list[list[TranslationHypothesis]]:
            with torch.inference_mode():
                return self._decode([segments[i] for i in batch], options)

        for batch, decoded in map_in_threads(decode, batches, threads=threads):
            for i, of_segment in zip(batch, decoded, strict=True):
                hypotheses[i] = of_segment
                open_segments[segments[i].line] -= 1
            if progress is not None:
                progress(sum(open_segments[line] == 0 for line in {segments[i].line for i in batch}))
        of_line: list[list[list[TranslationHypothesis]]] = [[] for _ in lines]
        for segment, of_segment in zip(segments, hypotheses, strict=True):
            of_line[segment.line].append(of_segment)
        empty = replace(EMPTY, alignment=None if options.alignment is None else frozenset())
        return [
            Translation(source=line, hypotheses=tuple(self._join(of_segments, prefix, options)) or (empty,))
            for line, of_segments, prefix in zip(lines, of_line, prefixes or repeat(""), strict=False)
        ]

    def translate_stream(
        self,
        lines: Iterable[str],
        options: TranslationOptions | None = None,
        *,
        prefixes: Iterable[str] | None = None,
        **overrides: Any,
    ) -> Generator[Translation, None, None]:
        """``translate`` for a stream: translations in input order, in bounded memory.

        When lines come slowly, each is translated as it comes. Raises DataError if there are not as many ``prefixes``
        as lines.
        """
        options = self._options(options, overrides)
        lines = check_lines(lines, "lines")
        prefixes = None if prefixes is None else check_lines(prefixes, "prefixes")
        for chunk in number_chunks(read_chunks(lines), prefixes):
            yield from self.translate_chunk(chunk, options)

    def translate_chunk(
        self, chunk: Chunk, options: TranslationOptions | None = None, **overrides: Any
    ) -> list[Translation]:
        """The translations of one chunk of a stream or file."""
        found = self.translate(chunk.lines, options, first_line=chunk.first_line, prefixes=chunk.prefixes, **overrides)
        if len(chunk.lines) >= MAX_CHUNK // 2:  # constantly changing batch shapes fragment the heap
            trim_malloc()
        return found

    def score(self, sources: Iterable[str], targets: Iterable[str], *, first_line: int = 0) -> list[ScoringResult]:
        """The model's log-probability of given translations. A line is scored as one sentence.

        ``first_line`` is the number of the first line in its file, from 0. Raises DataError, which names the line, for
        one that is too long.
        """
        sources, targets = list(check_lines(sources, "sources")), list(check_lines(targets, "targets"))
        if len(sources) != len(targets):
            raise DataError(f"targets: found {len(targets):,} for {len(sources):,} sources; accepted: equal numbers")
        return score_lines(
            self.models, self.tokenizers,
            [self.normalize_source(line) for line in sources], [self.normalize_target(line) for line in targets],
            batch_tokens=resolve_batch_tokens(self.options.batch_tokens, self.device) // self.options.beam_size,
            device=self.device,
            first_line=first_line,
        )  # fmt: skip

    @overload  # a line is an iterable of text too
    def attention(  # type: ignore[overload-overlap]
        self, source: str, target: str | None = None
    ) -> SentenceAttention: ...

    @overload
    def attention(self, source: Iterable[str], target: Iterable[str] | None = None) -> list[SentenceAttention]: ...

    def attention(
        self, source: str | Iterable[str], target: str | Iterable[str] | None = None
    ) -> SentenceAttention | list[SentenceAttention]:
        """What every head attends to while the model reads a line and its target, by default its own translation.

        A list of lines gives a list, and needs a list of targets, or none. Raises ConfigError for an ensemble,
        DataError for a blank line and for one that ``translate`` would split.
        """
        if len(self.models) > 1:
            raise ConfigError(f"attention: found an ensemble of {len(self.models)} models; accepted: one model")
        if isinstance(source, str):
            if not isinstance(target, (str, NoneType)):
                raise DataError(f"target: found {target!r:.60}; accepted beside one source: one line, or None")
            return self.attention([source], None if target is None else [target])[0]
        lines = list(check_lines(source, "source"))
        sources = encode_sentences(
            map(self.normalize_source, lines), self.tokenizers.source, name="source", max_length=self.max_source_length
        )
        if blank := [number for number, ids in enumerate(sources) if len(ids) == 1]:
            raise DataError(f"source[{blank[0]}]: found a blank line; accepted: a line with words")
        made: list[Translation] = self.translate(lines) if target is None else []
        if target is None:
            texts = [translation.text for translation in made]
            targets = [
                self.tokenizers.target.convert_pieces_to_ids(translation.hypotheses[0].tokens) for translation in made
            ]
        else:
            texts = list(check_lines(target, "target"))
            targets = encode_sentences(
                map(self.normalize_target, texts), self.tokenizers.target, name="target",
                max_length=self.max_source_length,
            )  # fmt: skip
        if len(texts) != len(lines):
            raise DataError(f"target: found {len(texts):,} for {len(lines):,} sources; accepted: equal numbers")
        pairs = zip(zip(lines, sources, strict=True), zip(texts, targets, strict=True), strict=True)
        with self._observable.lend() as (model,):
            return [
                read_attention(model, self.tokenizers, *pair, translation)
                for pair, translation in zip(pairs, made or repeat(None), strict=False)
            ]

    def _options(self, options: TranslationOptions | None, overrides: dict[str, Any]) -> TranslationOptions:
        accepted = [field.name for field in fields(TranslationOptions)]
        for name in overrides:
            if name not in accepted:
                raise ConfigError(f"{name}: unknown option; {did_you_mean(name, accepted)}")
        if not isinstance(options, (TranslationOptions, NoneType)):
            raise ConfigError(f"options: found {options!r}; accepted: TranslationOptions or None")
        options = replace(options or self.options, **overrides)
        if options.alignment is not None:
            self._aligner.check(options.alignment)
        return options

    def _segments(
        self, lines: Sequence[str], options: TranslationOptions, *, first_line: int, prefixes: Sequence[str] | None
    ) -> list[Segment]:
        normalized = None if prefixes is None else [self.normalize_target(prefix) for prefix in prefixes]
        encoded = None if normalized is None else self.tokenizers.target.encode(normalized)
        for number, prefix in enumerate(encoded or (), start=first_line + 1):
            if len(prefix) >= self.max_source_length:
                raise DataError(
                    f"line {number}: its prefix has {len(prefix):,} sub-words; accepted: up to "
                    f"{self.max_source_length - 1:,}"
                )
        segments = segment_lines(
            # A blank line has no segment, not even for an unusual space that the tokenizer knows.
            [text if (text := self.normalize_source(line)).strip() else "" for line in lines],
            encoded,
            self.tokenizers.source,
            max_length=self.max_source_length,
            given_words=None
            if options.alignment is None
            else [
                count_given_words(line, self.tokenizers.source, self.normalize_source, spaced=self.spaced[0])
                for line in lines
            ],
            spaced=self.spaced[0],
            first_line=first_line,
        )
        return list(segments)

    def _join(
        self, of_segments: Sequence[Sequence[TranslationHypothesis]], prefix: str, options: TranslationOptions
    ) -> list[TranslationHypothesis]:
        """The hypotheses of a line, best first, from those of its segments."""
        hypotheses = [
            self._restore_prefix(
                join_segments(ranked, options.length_penalty, self.sentence_joiner, spaced=self.spaced[1]), prefix
            )
            for ranked in zip(*of_segments, strict=False)
        ]
        if options.mbr is not None and hypotheses:
            return rank_by_expected_utility(hypotheses, options.mbr, spaced=self.spaced[1])[: options.n_best]
        return hypotheses

    def _restore_prefix(self, hypothesis: TranslationHypothesis, prefix: str) -> TranslationHypothesis:
        """The hypothesis with its given beginning where the vocabulary lacks some of the prefix's characters."""
        if not prefix:
            return hypothesis
        given = " ".join(self.normalize_target(prefix).split())
        (ids,) = self.tokenizers.target.encode([given])
        (shown,) = self.tokenizers.target.decode([ids])
        if UNK not in ids or not hypothesis.text.startswith(shown):
            return hypothesis
        return replace(hypothesis, text=given + hypothesis.text.removeprefix(shown))

    def _decode(self, segments: Sequence[Segment], options: TranslationOptions) -> list[list[TranslationHypothesis]]:
        """The hypotheses of one batch. The batch is halved for as long as the device runs out of memory.

        Raises ConfigError where one sentence does not fit.
        """
        try:
            found = self._search(segments, options)
            links = None
            if options.alignment is not None:
                sources = [(segment.ids, segment.words) for segment in segments]
                links = self._aligner.align(sources, found, options.alignment)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            if len(segments) == 1:
                raise ConfigError(
                    f"{self.device} lacks the memory for one sentence of {len(segments[0].ids):,} sub-words with "
                    f"{options.num_sequences} hypotheses ({first_line(error)}); accepted: fewer hypotheses "
                    "(decoding.beam_size), or a device with more free memory"
                ) from error
            LOG.warning("out of memory with %d sentences per batch; the batch is halved", len(segments))
        else:
            target = self.tokenizers.target
            texts = iter(target.decode([hypothesis.tokens for hypotheses in found for hypothesis in hypotheses]))
            return [
                [
                    TranslationHypothesis(
                        text=next(texts),
                        score=hypothesis.score,
                        log_probability=hypothesis.log_probability,
                        tokens=tuple(target.convert_ids_to_pieces(hypothesis.tokens)),
                        token_log_probabilities=hypothesis.token_log_probabilities,
                        alignment=None if links is None else links[row][rank],
                    )
                    for rank, hypothesis in enumerate(hypotheses)
                ]
                for row, hypotheses in enumerate(found)
            ]
        middle = len(segments) // 2
        return self._decode(segments[:middle], options) + self._decode(segments[middle:], options)

    def _search(self, segments: Sequence[Segment], options: TranslationOptions) -> list[list[Hypothesis]]:
        source = pad_sequences([segment.ids for segment in segments]).to(self.device)  # [sentences, source length]
        lengths = [max(len(segment.ids) + options.max_length_offset, len(segment.prefix) + 1) for segment in segments]
        max_lengths = torch.tensor(lengths, device=self.device)
        decoders: list[StepDecoder] = [
            start_decoder(model, source, num_beams=options.num_sequences, max_length=max(lengths))
            for model in self.models
        ]
        decoder = decoders[0] if len(decoders) == 1 else EnsembleDecoder(decoders)
        prefixes = [segment.prefix for segment in segments] if any(segment.prefix for segment in segments) else None
        constraints = SearchConstraints(
            max_lengths=max_lengths, min_length=options.min_length, length_penalty=options.length_penalty,
            prefixes=prefixes,
        )  # fmt: skip
        if options.sampling is not None:
            seeds = [segment.seed for segment in segments]
            found = sample(decoder, constraints, options.sampling, num_samples=options.num_hypotheses, seeds=seeds)
        else:
            found = beam_search(
                decoder, constraints, beam_size=options.beam_size, n_best=options.num_hypotheses,
                early_stopping=options.early_stopping,
            )  # fmt: skip
        if not all(hypotheses and math.isfinite(hypotheses[0].score) for hypotheses in found):
            raise CheckpointError("the model's predictions are not finite numbers; was its training stable?")
        return found
