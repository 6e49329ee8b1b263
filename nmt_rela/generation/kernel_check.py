"""Before inference on a GPU: the kernels of a model and of beam search are compared with their plain forms."""

from __future__ import annotations

import torch

from nmt_rela.attention.kernel_check import disable_untrusted
from nmt_rela.generation.beam_search import next_candidates
from nmt_rela.generation.decoding_step import NextTokenLogProbs, SearchConstraints
from nmt_rela.kernels.availability import assume_processor, disable_backend, disabled_reason, triton_problem
from nmt_rela.models.kernel_check import check_layers
from nmt_rela.models.transformer import Transformer
from nmt_rela.utils.errors import first_line

#: Nats that a log-probability may differ, whatever the dtype of the logits: it is computed in float32.
_TOLERANCE = 1e-4


def check_kernels(model: Transformer, dtype: torch.dtype, device: torch.device) -> None:
    """Use no kernel of a GPU that misses the reference on small tensors."""
    attentions = model.attention_modules().values()
    head_dim = next(iter(attentions)).head_dim
    disable_untrusted({each.variant for each in attentions}, head_dim=head_dim, dtype=dtype, device=device)
    if device.type == "cuda" and disabled_reason("triton", device) is None:
        width = model.output_embedding.shape[1]
        problem = triton_problem(device) or check_layers(dtype, device, width=width, training=False)
        problem = problem or check_candidates(dtype, device)
        if problem is not None:
            disable_backend("triton", device, problem)


def check_candidates(dtype: torch.dtype, device: torch.device) -> str | None:
    """Where the candidates of a beam-search step miss those of the plain form; None where they do not."""
    random, sentences = torch.Generator().manual_seed(0), torch.arange(3, device=device)
    scores = torch.randn(3, 2, generator=random).to(device)
    logits = torch.randn(3, 2, 9000, generator=random).mul(3).to(device, dtype)
    constraints = SearchConstraints(max_lengths=sentences + 5)

    def candidates() -> list[torch.Tensor]:
        log_probs = NextTokenLogProbs(constraints)
        totals, beams, tokens, of_tokens = next_candidates(scores, logits.clone(), log_probs, 0, sentences, 8)
        # Which of several tokens with equal logits is found does not matter.
        return [totals, of_tokens, logits[sentences[:, None], beams, tokens].float()]

    try:
        found = candidates()
    except Exception as error:  # of any type: whatever a kernel raises, the plain form can go on
        return f"candidates of beam search: {first_line(error)}"
    with assume_processor("none"):
        wanted = candidates()
    misses = max(float((x - y).abs().max()) for x, y in zip(found, wanted, strict=True))
    if not misses <= _TOLERANCE:
        return f"candidates of beam search in {dtype}: they err by {misses:.1e}, more than {_TOLERANCE:.0e}"
    return None
