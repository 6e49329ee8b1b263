"""Word alignments of translations, read from the cross-attention while the model reads them (teacher forcing)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nmt_rela.config.schema import Config, five_sixths
from nmt_rela.data.data_loader import pad_sequences
from nmt_rela.data.tokenizer import SentencePieceTokenizer
from nmt_rela.generation.decoding_step import Hypothesis
from nmt_rela.generation.options import AlignmentOptions
from nmt_rela.metrics.word_alignment import Link, link_words, words_of_subwords
from nmt_rela.models.attention_capture import ObservableModels
from nmt_rela.models.transformer import Transformer
from nmt_rela.utils.errors import ConfigError


def default_alignment_heads(config: Config) -> tuple[int, int]:
    """The layer whose first heads links are read from, and how many: those that have learned links, or all."""
    guided, model = config.training.guided_alignment, config.model
    if guided.weight:
        return guided.layer_of(model.decoder_layers), guided.heads
    return five_sixths(model.decoder_layers), model.num_heads


class WordAligner:
    """Extracts word alignments with the models of a translator. An ensemble uses the mean of its attention."""

    def __init__(
        self,
        models: Sequence[Transformer],
        observable: ObservableModels,
        target_tokenizer: SentencePieceTokenizer,
        *,
        device: torch.device,
        spaced: bool = True,
        default_heads: Sequence[tuple[int, int]] | None = None,
    ) -> None:
        """``observable`` are the same models. ``spaced``: the target language has spaces between words.
        ``default_heads``: for each model a layer, and how many of its heads to read; the default is all heads at five
        sixths of the depth.
        """
        self._default_heads = default_heads or [
            (five_sixths(len(model.decoder)), model.attention_modules()["cross", 0].num_heads) for model in models
        ]
        self._spaced = spaced
        self._models, self._observable = tuple(models), observable
        self._tokenizer, self._device = target_tokenizer, device

    def check(self, options: AlignmentOptions) -> None:
        """Raise ConfigError for a layer or head that a model does not have."""
        for model in self._models:
            cross = [module for (site, _), module in model.attention_modules().items() if site == "cross"]
            if options.layer is not None and not 0 <= options.layer < len(cross):
                raise ConfigError(f"--alignment-layer: found {options.layer}; accepted: 0 to {len(cross) - 1}")
            if options.head is not None and not 0 <= options.head < cross[0].num_heads:
                raise ConfigError(f"--alignment-head: found {options.head}; accepted: 0 to {cross[0].num_heads - 1}")

    def align(
        self,
        sources: Sequence[tuple[Sequence[int], Sequence[tuple[int, ...]]]],
        hypotheses: Sequence[Sequence[Hypothesis]],
        options: AlignmentOptions,
    ) -> list[list[frozenset[Link]]]:
        """The links of every hypothesis.

        ``sources`` are sub-word ids, EOS included, and the words that each belongs to.
        """
        pairs = [
            (ids, words, hypothesis)
            for (ids, words), of_sentence in zip(sources, hypotheses, strict=True)
            for hypothesis in of_sentence
        ]
        source = pad_sequences([ids for ids, _, _ in pairs]).to(self._device)
        target = pad_sequences([hypothesis.tokens for _, _, hypothesis in pairs]).to(self._device)
        with self._observable.lend() as models:
            matrices = [
                _cross_attention(model, source, target, options, default)
                for model, default in zip(models, self._default_heads, strict=True)
            ]
        weights = torch.stack(matrices).mean(dim=0).cpu().numpy()  # [pairs, target length, source length]
        links = iter(
            link_words(
                weights[row, : len(hypothesis.tokens), : len(ids)],
                words,
                words_of_subwords(self._tokenizer.convert_ids_to_pieces(hypothesis.tokens), spaced=self._spaced),
                shifted=options.shifted,
            )
            for row, (ids, words, hypothesis) in enumerate(pairs)
        )
        return [[next(links) for _ in of_sentence] for of_sentence in hypotheses]


def _cross_attention(
    model: Transformer, source: Tensor, target: Tensor, options: AlignmentOptions, default: tuple[int, int]
) -> Tensor:
    """Cross-attention weights [batch, target length, source length], float32, of the chosen layer and head."""
    layer, heads = default if options.layer is None else (options.layer, None)
    hook_pattern = model.attention_modules()["cross", layer].hook_pattern
    seen: list[Tensor] = []  # [batch, heads, target length, source length]
    with hook_pattern.register_forward_hook(lambda _module, _inputs, weights: seen.append(weights.float())):
        model.decode(model.shift_right(target), model.encode(source))
    return seen[0][:, :heads].mean(dim=1) if options.head is None else seen[0][:, options.head]
