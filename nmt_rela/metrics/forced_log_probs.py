"""Log-probabilities of given target sentences: teacher forcing."""

from __future__ import annotations

import torch
from torch import Tensor

from nmt_rela.data.tokenizer import PAD
from nmt_rela.models.transformer import Transformer

#: Rows of logits computed at a time: 64 MiB in float32 with a vocabulary of 32,000.
_ROWS = 512


def forced_log_probs(model: Transformer, source: Tensor, target: Tensor) -> Tensor:
    """Log-probability (nats) of every target token given those before it, 0 at padding; float32.

    ``source`` [batch, source length] and ``target`` [batch, target length] end in EOS and are padded with PAD. The
    result has the shape of ``target``. The model is used in the mode (eval) that it is in.
    """
    hidden_states = model.decode(model.shift_right(target), model.encode(source)).flatten(0, 1)
    # No output projection at padding. A GPU is waited for once, here.
    positions = (target.flatten() != PAD).nonzero().squeeze(1)
    tokens = target.flatten()[positions]
    log_probs = [
        model.output_projection(rows).float().log_softmax(dim=1).gather(1, row_tokens.unsqueeze(1)).squeeze(1)
        for rows, row_tokens in zip(hidden_states[positions].split(_ROWS), tokens.split(_ROWS), strict=True)
    ]
    return (
        torch.zeros(target.numel(), device=target.device).index_copy(0, positions, torch.cat(log_probs)).view_as(target)
    )
