"""Inputs of single attention calls for every site, and the reference to compare backends with."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from nmt_rela.attention.backends import attention_scores, attention_weights
from nmt_rela.attention.mask import CAUSAL_MASK, AttentionMask, attention_mask, key_padding_mask
from nmt_rela.attention.variants import ATTENTION_VARIANTS


def padding(lengths: list[int], keys: int) -> AttentionMask:
    return key_padding_mask(torch.arange(keys) < torch.tensor(lengths)[:, None], torch.float32)


def history(sentences: int, beams: int, keys: int) -> AttentionMask:
    """A mask of its own for each query, as beams have; one of them sees nothing."""
    visible = torch.rand(sentences, 1, beams, keys, generator=torch.Generator().manual_seed(1)) < 0.5
    visible[0, 0, 1] = False
    return attention_mask(visible, torch.float32)


#: Sentences, heads, queries, keys, width, mask.
SITES = {
    "one of each": (1, 1, 1, 1, 16, None),
    "encoder": (3, 1, 33, 33, 32, padding([33, 7, 0], 33)),
    "decoder": (1, 2, 65, 65, 16, CAUSAL_MASK),
    "cross": (2, 2, 7, 70, 64, padding([70, 31], 70)),
    "beams": (2, 1, 4, 37, 128, history(2, 4, 37)),
}


def inputs(
    sentences: int, heads: int, queries: int, keys: int, width: int, dtype: torch.dtype, device: str = "cpu"
) -> list[Tensor]:
    """Queries, keys and values as projections leave them, parts of larger tensors, and a gradient from above."""
    random = torch.Generator().manual_seed(queries + keys)
    query = torch.randn(sentences, queries, 3, heads, width, generator=random) * 1.5
    memory = torch.randn(sentences, keys, 2, heads, width, generator=random)
    upstream = torch.randn(sentences, queries, heads, width, generator=random)
    parts = [query[:, :, 1].transpose(1, 2), *(memory[:, :, i].transpose(1, 2) for i in (0, 1)), upstream]
    return [part.to(device, dtype) for part in parts]


def reference(
    variant: str, query: Tensor, key: Tensor, value: Tensor, mask: AttentionMask | None, kept: Tensor | None = None
) -> Tensor:
    """The reference, with the factors of dropout given."""
    weights = attention_weights(ATTENTION_VARIANTS[variant], attention_scores(query, key, mask), mask)
    return ((weights if kept is None else weights * kept) @ value).transpose(1, 2)


def with_gradients(
    function: Callable[..., Tensor], query: Tensor, key: Tensor, value: Tensor, upstream: Tensor
) -> list[Tensor]:
    """The output and the gradients of queries, keys and values."""
    leaves = [x.detach().requires_grad_() for x in (query, key, value)]
    output = function(*leaves)
    return [output.detach(), *torch.autograd.grad(output, leaves, upstream)]


def assert_zero_where_masked(output: Tensor, query_gradient: Tensor, *gradients: Tensor) -> None:
    """What the site "encoder" gives: 0 for its last sentence, which has no key, and for keys that are masked."""
    assert (output[2] == 0).all()
    assert (query_gradient[2] == 0).all()
    for gradient in gradients:  # [sentences, heads, keys, width]
        assert (gradient[0] != 0).any()
        assert (gradient[1, :, 7:] == 0).all()
        assert (gradient[2] == 0).all()
