"""Lines in, translations out: the search sees logits only, this sees text only."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch

from nmt_rela.checkpoints.run_directory import RunDirectory
from nmt_rela.config.schema import DecodingConfig
from nmt_rela.data.data_loader import pad_sequences
from nmt_rela.data.tokenizer import TokenizerPair
from nmt_rela.generation.alignment import AlignmentOptions, WordAligner
from nmt_rela.generation.batching import batch_by_tokens_balanced
from nmt_rela.generation.beam_search import SearchState, beam_search
from nmt_rela.generation.device import prepare_for_inference, resolve_device
from nmt_rela.generation.ensemble import EnsembleState
from nmt_rela.generation.hypothesis import Hypothesis
from nmt_rela.generation.options import Request, with_settings
from nmt_rela.generation.sampling import Sampling, sample
from nmt_rela.generation.scoring import score_lines
from nmt_rela.generation.segmentation import Part, join_segments, segment_lines
from nmt_rela.generation.streaming import LARGEST, prefixes_of, windows
from nmt_rela.generation.thread_pool import map_in_threads
from nmt_rela.generation.translation import NOTHING, ScoringResult, Translated, Translation
from nmt_rela.metrics.word_alignment import Link
from nmt_rela.models.transformer import Transformer
from nmt_rela.preparation.cleaning import normalization_for
from nmt_rela.utils.errors import CheckpointError, ConfigError
from nmt_rela.utils.memory import trim_malloc

LOG = logging.getLogger(__name__)

Precision = Literal["float32", "bf16", "fp16", "int8"]
DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "int8": torch.int8}


class Translator:
    """Translates with one model, or with the mean of several over the same vocabularies.

    Threads may share a translator: it changes nothing of itself or of its models while it works.
    """

    def __init__(
        self,
        models: Transformer | Sequence[Transformer],
        vocabularies: TokenizerPair,
        *,
        decoding: DecodingConfig | None = None,
        device: str | torch.device = "cpu",
        max_source_length: int = 256,
        normalise_source: Callable[[str], str] = str,
        normalise_target: Callable[[str], str] = str,
    ) -> None:
        """Take models that lie on ``device`` already and are in evaluation mode whenever a method is called.

        Lines of more than ``max_source_length`` sub-words (EOS counted) are translated in parts. What was done to all
        training text of a language is done to given text by ``normalise_source`` and ``normalise_target``.
        """
        self.models = (models,) if isinstance(models, Transformer) else tuple(models)
        self.vocabularies = vocabularies
        self.decoding = decoding or DecodingConfig()
        self.device = torch.device(device)
        self.max_source_length = max_source_length
        self.normalise_source = normalise_source
        self.normalise_target = normalise_target
        self._aligner = WordAligner(self.models, vocabularies.target, device=self.device)

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

        ``checkpoint`` is average, best, last or step_N, by default the first of these that exists. ``device`` auto is
        the GPU where there is one. ``decoding`` are the settings, by default those of the (first) run. Raises
        CheckpointError for runs that are missing, damaged or of different vocabularies, ConfigError for an unknown
        device.
        """
        if precision not in DTYPES:
            raise ConfigError(f"precision: found '{precision}'; accepted: {', '.join(DTYPES)}")
        place = resolve_device(device)
        directories = [RunDirectory(run) for run in ([runs] if isinstance(runs, (str, Path)) else runs)]
        configs = [directory.config() for directory in directories]
        vocabularies = directories[0].vocabularies()
        for directory in directories[1:]:
            if directory.vocabularies().fingerprint != vocabularies.fingerprint:
                raise CheckpointError(
                    f"{directory.path}: another vocabulary than {directories[0].path}; an ensemble needs the same"
                )
        models = [directory.load_model(checkpoint, device=place) for directory in directories]
        data = configs[0].data
        return cls(
            [prepare_for_inference(model, DTYPES[precision], place) for model in models],
            vocabularies,
            decoding=decoding or configs[0].decoding,
            device=place,
            max_source_length=data.max_length,
            normalise_source=normalization_for(data.source_language, romanian=data.romanian_diacritics),
            normalise_target=normalization_for(data.target_language, romanian=data.romanian_diacritics),
        )

    def translate(
        self,
        lines: Sequence[str],
        *,
        beam: int | None = None,
        n_best: int = 1,
        length_penalty: float | None = None,
        early_stopping: bool | None = None,
        extra_length: int | None = None,
        min_length: int | None = None,
        batch_tokens: int | None = None,
        sampling: Sampling | None = None,
        align: AlignmentOptions | None = None,
        prefixes: Sequence[str] | None = None,
        first_line: int = 0,
        progress: Callable[[int], None] | None = None,
    ) -> list[Translation]:
        """Translate lines, all of them sorted by length together; one translation a line, in order.

        Settings that are not given are those of ``self.decoding``. ``n_best`` hypotheses are returned, at most the
        beam; with ``sampling`` they are drawn instead, independently. ``prefixes`` are what each translation must
        begin with (whole words, "" for none). ``align`` adds word links. ``first_line`` is the number of the
        first line in its file, from 0: warnings name lines by it, and sampling depends on it. ``progress`` is called
        with a number of lines whenever so many are done. Raises ConfigError for settings out of range.
        """
        request = self._request(
            n_best, sampling, align, beam=beam, length_penalty=length_penalty, early_stopping=early_stopping,
            extra_length=extra_length, min_length=min_length, batch_tokens=batch_tokens,
        )  # fmt: skip
        return self._translate(lines, request, first_line=first_line, prefixes=prefixes, progress=progress)

    def translate_stream(
        self,
        lines: Iterable[str],
        *,
        beam: int | None = None,
        n_best: int = 1,
        length_penalty: float | None = None,
        early_stopping: bool | None = None,
        extra_length: int | None = None,
        min_length: int | None = None,
        batch_tokens: int | None = None,
        sampling: Sampling | None = None,
        align: AlignmentOptions | None = None,
        prefixes: Iterable[str] | None = None,
    ) -> Generator[Translation, None, None]:
        """The same for lines that keep coming: translations in input order, early when the lines come slowly, in
        bounded memory. Raises DataError when there are not as many ``prefixes`` as lines.
        """
        request = self._request(
            n_best, sampling, align, beam=beam, length_penalty=length_penalty, early_stopping=early_stopping,
            extra_length=extra_length, min_length=min_length, batch_tokens=batch_tokens,
        )  # fmt: skip
        first_line = 0
        for window, begun in prefixes_of(windows(lines), prefixes):
            yield from self._translate(window, request, first_line=first_line, prefixes=begun)
            first_line += len(window)
            if len(window) == LARGEST:  # batches of ever other shapes fragment the heap
                trim_malloc()

    def score(self, sources: Sequence[str], targets: Sequence[str]) -> list[ScoringResult]:
        """The model's log-probability of given translations. Nothing is split: a line is scored as one sentence."""
        assert len(sources) == len(targets)
        return score_lines(
            self.models, self.vocabularies,
            [self.normalise_source(line) for line in sources], [self.normalise_target(line) for line in targets],
            batch_tokens=self.decoding.batch_tokens // self.decoding.beam, device=self.device,
        )  # fmt: skip

    def _request(
        self,
        n_best: int,
        sampling: Sampling | None,
        align: AlignmentOptions | None,
        **settings: bool | int | float | None,
    ) -> Request:
        decoding = with_settings(self.decoding, **settings)
        request = Request(decoding=decoding, n_best=n_best, sampling=sampling, align=align)
        if align is not None:
            self._aligner.check(align)
        return request

    def _translate(
        self,
        lines: Sequence[str],
        request: Request,
        *,
        first_line: int,
        prefixes: Sequence[str] | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> list[Translation]:
        assert not any(model.training for model in self.models), "translating with dropout on"
        parts = list(self._parts(lines, request, first_line=first_line, prefixes=prefixes))
        found: list[list[Translated]] = [[] for _ in parts]
        parts_left = [0] * len(lines)
        for part in parts:
            parts_left[part.line] += 1
        if progress is not None:
            progress(parts_left.count(0))
        lengths = [len(part.ids) for part in parts]
        threads = torch.get_num_threads() if self.device.type == "cpu" else 1
        batches = list(batch_by_tokens_balanced(threads, lengths, request.decoding.batch_tokens // request.sequences))

        def decode(batch: Sequence[int]) -> list[list[Translated]]:
            with torch.inference_mode():
                return self._decode([parts[i] for i in batch], request)

        for batch, decoded in map_in_threads(decode, batches, threads=threads):
            for i, hypotheses in zip(batch, decoded, strict=True):
                found[i] = hypotheses
                parts_left[parts[i].line] -= 1
            if progress is not None:
                progress(sum(parts_left[line] == 0 for line in {parts[i].line for i in batch}))
        of_line: list[list[list[Translated]]] = [[] for _ in lines]
        for part, hypotheses in zip(parts, found, strict=True):
            of_line[part.line].append(hypotheses)
        empty = replace(NOTHING, alignment=None if request.align is None else frozenset())
        return [
            Translation(
                source=line,
                hypotheses=tuple(
                    join_segments(of_parts, request.decoding.length_penalty)
                    for of_parts in zip(*hypotheses, strict=False)
                )
                or (empty,),
            )
            for line, hypotheses in zip(lines, of_line, strict=True)
        ]

    def _parts(
        self, lines: Sequence[str], request: Request, *, first_line: int, prefixes: Sequence[str] | None
    ) -> Iterator[Part]:
        """What there is to search."""
        return segment_lines(
            # Blank lines have nothing to say, not even a stray sub-word for an odd kind of space.
            [self.normalise_source(line) if line.strip() else "" for line in lines],
            None
            if prefixes is None
            else self.vocabularies.target.encode([self.normalise_target(prefix) for prefix in prefixes]),
            self.vocabularies.source,
            limit=self.max_source_length,
            grouped=request.align is not None,
            first_line=first_line,
        )

    def _decode(self, parts: Sequence[Part], request: Request) -> list[list[Translated]]:
        """One batch through the search; halved as often as the device's memory demands."""
        try:
            found = self._search(parts, request)
            aligned = (
                None
                if request.align is None
                else self._aligner.links([(part.ids, part.groups) for part in parts], found, request.align)
            )
        except torch.OutOfMemoryError:
            if len(parts) == 1:
                raise
            LOG.warning("out of memory with %d sentences in a batch; halved", len(parts))
        else:
            return self._translated(parts, found, aligned)
        middle = len(parts) // 2
        return self._decode(parts[:middle], request) + self._decode(parts[middle:], request)

    def _search(self, parts: Sequence[Part], request: Request) -> list[list[Hypothesis]]:
        decoding = request.decoding
        source = pad_sequences([part.ids for part in parts]).to(self.device)
        lengths = [max(len(part.ids) + decoding.extra_length, len(part.prefix) + 1) for part in parts]
        max_lengths = torch.tensor(lengths, device=self.device)
        beams = request.sequences
        states: list[SearchState] = [
            model.start_decoding(model.encode(source), beams=beams, max_length=max(lengths)) for model in self.models
        ]
        state = states[0] if len(states) == 1 else EnsembleState(states)
        prefixes = [part.prefix for part in parts] if any(part.prefix for part in parts) else None
        if request.sampling is not None:
            found = sample(
                state, request.sampling, sentences=len(parts), samples=beams, keys=[part.key for part in parts],
                max_lengths=max_lengths, length_penalty=decoding.length_penalty, min_length=decoding.min_length,
                prefixes=prefixes,
            )  # fmt: skip
        else:
            found = beam_search(
                state, sentences=len(parts), beams=beams, max_lengths=max_lengths, n_best=request.n_best,
                length_penalty=decoding.length_penalty, min_length=decoding.min_length, prefixes=prefixes,
                early_stopping=decoding.early_stopping,
            )  # fmt: skip
        if not all(hypotheses and math.isfinite(hypotheses[0].score) for hypotheses in found):
            raise CheckpointError("the model's predictions are not finite numbers; was its training stable?")
        return found

    def _translated(
        self,
        parts: Sequence[Part],
        found: Sequence[Sequence[Hypothesis]],
        aligned: Sequence[Sequence[frozenset[Link]]] | None,
    ) -> list[list[Translated]]:
        target = self.vocabularies.target
        texts = iter(target.decode([hypothesis.tokens for hypotheses in found for hypothesis in hypotheses]))
        return [
            [
                Translated(
                    text=next(texts),
                    score=hypothesis.score,
                    log_probability=hypothesis.log_probability,
                    tokens=tuple(target.pieces(hypothesis.tokens)),
                    token_log_probabilities=hypothesis.token_log_probabilities,
                    alignment=None if aligned is None else aligned[row][rank],
                )
                for rank, hypothesis in enumerate(hypotheses)
            ]
            for row, hypotheses in enumerate(found)
        ]
