"""The attention weights of one sentence pair: named arrays, a plot, BertViz's arguments, a table in a notebook."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from nmt_rela.config.schema import five_sixths
from nmt_rela.data.tokenizer import EOS, SentencePieceTokenizer, TokenizerPair
from nmt_rela.generation.heatmap import SITE_TITLES, heatmap, readable
from nmt_rela.generation.options import NO_FORMULAS, Translation
from nmt_rela.metrics.forced_log_probs import forced_log_probs
from nmt_rela.models.attention_capture import capture_attention
from nmt_rela.models.transformer import ATTENTION_SITES, Transformer
from nmt_rela.utils.errors import ConfigError, DataError, did_you_mean

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = npt.NDArray[np.float32]

#: What the decoder reads first.
START = "<s>"
#: Sub-words per side that the table in a notebook shows.
_SHOWN = 64
_LABEL = "padding:0 4px;border:0;text-align:{};white-space:nowrap"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SentenceAttention:
    """What the heads attend to while the model reads a source and a target (teacher forcing).

    Weights are float32, taken before dropout, and exactly 0 at masked positions. Layers and heads count from 0. Row t
    of ``decoder`` and ``cross`` belongs to the step that reads ``target_inputs[t]`` and predicts ``target_tokens[t]``.
    """

    source: str
    #: The given target, or the translation.
    target: str
    #: Sub-words, the end of sentence included.
    source_tokens: tuple[str, ...]
    target_tokens: tuple[str, ...]
    #: Log-probability (nats) of each of ``target_tokens``.
    token_log_probabilities: tuple[float, ...]
    #: The attention variant of each site.
    variants: Mapping[str, str]
    #: [layers, heads, source tokens, source tokens]
    encoder: Array
    #: [layers, heads, target tokens, target inputs]
    decoder: Array
    #: [layers, heads, target tokens, source tokens]
    cross: Array
    #: What the model made of the source; None for a given target.
    translation: Translation | None = None

    @property
    def target_inputs(self) -> tuple[str, ...]:
        """The sub-words that the decoder reads: the target one step later, the start of sentence first."""
        return (START, *self.target_tokens[:-1])

    @property
    def null_rows(self) -> dict[str, npt.NDArray[np.bool_]]:
        """By site, which rows are all 0: [layers, heads, queries]. Only ReLA has such rows."""
        return {site: ~getattr(self, site).any(axis=-1) for site in ATTENTION_SITES}

    def tokens(self, site: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The queries and the keys of a site: sub-words. Queries of the decoder are those that they predict."""
        queries = self.source_tokens if site == "encoder" else self.target_tokens
        return queries, self.target_inputs if site == "decoder" else self.source_tokens

    def plot(self, site: str = "cross", layer: int | None = None, head: int | None = None) -> Figure:
        """A heatmap: queries down, keys across, one panel per head, or the given ``head`` only.

        The default ``layer`` is that of word alignments, at five sixths of the depth. Needs matplotlib. A notebook
        shows the figure; ``plot().savefig("cross.pdf")`` writes it. Raises ConfigError for what the model lacks.
        """
        if site not in ATTENTION_SITES:
            raise ConfigError(f"site: found {site!r}; {did_you_mean(str(site), ATTENTION_SITES)}")
        weights: Array = getattr(self, site)
        layer = five_sixths(len(weights)) if layer is None else layer
        for name, found, count in (("layer", layer, len(weights)), ("head", head, weights.shape[1])):
            if found is not None and found not in range(count):
                raise ConfigError(f"{name}: found {found!r}; accepted: 0 to {count - 1}")
        heads = range(weights.shape[1]) if head is None else [head]
        queries, keys = self.tokens(site)
        return heatmap(
            readable(queries),
            readable(keys),
            weights[layer, heads],
            panels=[f"head {number}" for number in heads],
            title=f"{SITE_TITLES[site]} ({self.variants[site]}), layer {layer}",
        )

    def to_bertviz(self) -> dict[str, Any]:
        """The arguments of BertViz: ``head_view(**attention.to_bertviz())``, and the same for ``model_view``.

        BertViz labels queries and keys of the decoder alike: with the sub-words that it reads. It draws a weight as an
        opacity, so a head whose largest weight is above 1 is divided by it.
        """

        def scaled(layer: Array) -> torch.Tensor:  # [1, heads, queries, keys]
            return torch.from_numpy(layer / layer.max(axis=(1, 2), keepdims=True).clip(min=1))[None]

        weights = {f"{site}_attention": [scaled(layer) for layer in getattr(self, site)] for site in ATTENTION_SITES}
        return weights | {"encoder_tokens": list(self.source_tokens), "decoder_tokens": list(self.target_inputs)}

    def __repr__(self) -> str:
        shapes = ", ".join(f"{site} {list(getattr(self, site).shape)}" for site in ATTENTION_SITES)
        return f"<{type(self).__name__} {self.source!r:.60} → {self.target!r:.60}: {shapes}>"

    def _repr_html_(self) -> str:
        """Cross-attention as a table, the mean over the heads of one layer."""
        layer = five_sixths(len(self.cross))
        matrix = self.cross[layer].mean(axis=0)  # [target tokens, source tokens]
        rows, columns = (readable(side)[:_SHOWN] for side in self.tokens("cross"))
        cut = f"; the first {_SHOWN} sub-words" if max(matrix.shape) > _SHOWN else ""
        peak = float(matrix.max()) or 1.0
        across = _LABEL.format("left")
        header = "".join(f'<th style="{across};writing-mode:vertical-rl">{escape(column)}</th>' for column in columns)
        body = "".join(
            f'<tr><th style="{_LABEL.format("right")}">{escape(row)}</th>'
            + "".join(
                f'<td style="padding:0;border:1px solid #d5dae0;width:18px;height:18px;'
                f'background:rgba(35,105,159,{weight / peak:.2f})" title="{weight:.3f}"></td>'
                for weight in weights[:_SHOWN]
            )
            + "</tr>"
            for row, weights in zip(rows, matrix, strict=False)
        )
        nulls = f"; {self.null_rows['cross'].mean():.1%} of all rows are null" if self.null_rows["cross"].any() else ""
        return (
            f'<div class="{NO_FORMULAS}"><p>'
            f"{escape(self.source)} → {escape(self.target)}<br><small>cross-attention "
            f"({escape(self.variants['cross'])}), mean over the heads of layer {layer}{nulls}{cut}</small></p>"
            f'<div style="overflow-x:auto"><table style="border-collapse:collapse"><tr><td style="border:0"></td>'
            f"{header}</tr>{body}</table></div></div>"
        )


def encode_sentences(
    lines: Iterable[str], tokenizer: SentencePieceTokenizer, *, name: str, max_length: int
) -> list[list[int]]:
    """The sub-word ids of lines, each read as one sentence, with EOS.

    Raises DataError for a line of more than ``max_length`` sub-words, EOS counted; ``name`` is that of the argument.
    """
    encoded = [[*ids, EOS] for ids in tokenizer.encode(list(lines))]
    for number, ids in enumerate(encoded):
        if len(ids) > max_length:
            raise DataError(
                f"{name}[{number}]: found {len(ids) - 1:,} sub-words; accepted: up to {max_length - 1:,}, because a "
                "line is read as one sentence"
            )
    return encoded


@torch.inference_mode()
def read_attention(
    model: Transformer,
    tokenizers: TokenizerPair,
    source: tuple[str, Sequence[int]],
    target: tuple[str, Sequence[int]],
    translation: Translation | None,
) -> SentenceAttention:
    """The attention of a model, which nothing else uses meanwhile, for a source and a target: text and ids."""
    device = next(model.parameters()).device
    ids = [torch.tensor([side], device=device) for _, side in (source, target)]
    with capture_attention(model) as captured:
        log_probs = forced_log_probs(model, *ids)  # [1, target tokens]
    weights = [
        np.stack([layer[0].cpu().numpy() for (of, _), layer in sorted(captured.items()) if of == site])
        for site in ("encoder", "decoder", "cross")
    ]
    return SentenceAttention(
        source=source[0],
        target=target[0],
        source_tokens=tuple(tokenizers.source.convert_ids_to_pieces(source[1])),
        target_tokens=tuple(tokenizers.target.convert_ids_to_pieces(target[1])),
        token_log_probabilities=tuple(log_probs[0].tolist()),
        variants={site: module.variant for (site, layer), module in model.attention_modules().items() if layer == 0},
        encoder=weights[0],
        decoder=weights[1],
        cross=weights[2],
        translation=translation,
    )
