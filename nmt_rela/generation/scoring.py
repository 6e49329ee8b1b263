"""Log-probabilities of given translations (teacher forcing)."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from nmt_rela.data.data_loader import pad_sequences
from nmt_rela.data.tokenizer import EOS, TokenizerPair
from nmt_rela.generation.batching import batch_by_tokens
from nmt_rela.generation.ensemble import mean_log_probs
from nmt_rela.generation.options import ScoringResult
from nmt_rela.metrics.forced_log_probs import forced_log_probs
from nmt_rela.models.transformer import Transformer
from nmt_rela.utils.errors import DataError

#: Attention weights of a longer pair may not fit into memory, which grows with the square of the length.
MAX_SUBWORDS = 10_000


@torch.inference_mode()
def score_lines(
    models: Sequence[Transformer],
    tokenizers: TokenizerPair,
    sources: Sequence[str],
    targets: Sequence[str],
    *,
    batch_tokens: int,
    device: torch.device,
    first_line: int = 0,
) -> list[ScoringResult]:
    """The score of each target line given its source line, in order.

    ``batch_tokens`` is the number of padded tokens of the longer side per batch. ``first_line`` is the number of the
    first line in its file, from 0. Raises DataError, which names the line, for a pair of over MAX_SUBWORDS on a side.
    """
    source_ids = [[*ids, EOS] for ids in tokenizers.source.encode(sources)]
    target_ids = [[*ids, EOS] for ids in tokenizers.target.encode(targets)]
    lengths = [max(len(source), len(target)) for source, target in zip(source_ids, target_ids, strict=True)]
    for number, (source_line, length) in enumerate(zip(sources, lengths, strict=True), start=first_line + 1):
        if length > MAX_SUBWORDS:
            raise DataError(
                f"line {number}: a pair of {length:,} sub-words, whose source begins '{source_line[:40]}'; accepted: "
                f"up to {MAX_SUBWORDS:,} per side, because a pair is scored as one sentence"
            )
    results: dict[int, ScoringResult] = {}
    for batch in batch_by_tokens(lengths, batch_tokens):
        source = pad_sequences([source_ids[i] for i in batch]).to(device)
        target = pad_sequences([target_ids[i] for i in batch]).to(device)
        log_probs = mean_log_probs([forced_log_probs(model, source, target) for model in models])  # [batch, length]
        for i, padded in zip(batch, log_probs.tolist(), strict=True):
            values = padded[: len(target_ids[i])]
            results[i] = ScoringResult(
                log_probability=sum(values),
                tokens=tuple(tokenizers.target.convert_ids_to_pieces(target_ids[i])),
                token_log_probabilities=tuple(values),
            )
    return [results[i] for i in range(len(lengths))]
