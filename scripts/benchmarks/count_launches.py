"""Kernel launches and memory traffic of one update, counted on a CUDA device without numbers: no GPU is needed.

The update is the trainer's own, of the model of ``--config``, with one micro-batch of ``--tokens`` target tokens. An
operator of PyTorch is counted as the number of kernels that it launches on a GPU (`_KERNELS`; 1 if it is not listed);
views are none. The traffic of an operator is the bytes of its inputs and outputs, and that of matrix multiplications is
listed apart. Attention that PyTorch fuses is counted as its inputs and outputs.
"""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any
from unittest import mock

from fake_cuda import fake_cuda, load_device

_FOLDER = tempfile.TemporaryDirectory()
if __name__ == "__main__":
    load_device(Path(_FOLDER.name))
# ruff: noqa: E402 - the device must be there before torch is imported

import numpy as np
import torch
from harness import make_parser, print_row, write_document
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils import clip_grad

from nmt_rela.attention.variants import ATTENTION_VARIANTS
from nmt_rela.checkpoints.run_directory import build_model
from nmt_rela.commands import cli
from nmt_rela.config.loader import load_config
from nmt_rela.config.schema import Config
from nmt_rela.data.data_loader import Batch
from nmt_rela.data.tokenizer import TokenizerPair
from nmt_rela.training.objective import TranslationObjective
from nmt_rela.training.optimizer import build_optimizer, step_unless_nonfinite

#: Kernels of operators that launch more than one, or none.
_KERNELS = {
    "native_layer_norm_backward": 3,
    "embedding_dense_backward": 6,
    "_index_put_impl_": 9,
    "index_put": 9,
    "_scaled_dot_product_efficient_attention_backward": 3,
    "_scaled_dot_product_flash_attention_backward": 3,
    "_efficient_attention_backward": 3,
}
_MATMULS = {"mm", "addmm", "bmm", "baddbmm"}
#: Elements that one launch of a multi-tensor kernel processes, and tensors of which it takes the addresses.
_FOREACH_ELEMENTS, _FOREACH_TENSORS = 320 * 65_536, 50


#: What a configuration must say, though nothing is read or written.
_UNUSED = ["data.task=demo", "data.source_language=en", "data.target_language=de", "run_dir=unused"]


class LaunchCounter:
    """Counts what the device is asked to do."""

    def __init__(self) -> None:
        self.launches: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()

    def __call__(self, called: Any, inputs: list[Tensor], outputs: list[Tensor]) -> None:
        if not hasattr(called, "_schema"):  # a Triton kernel
            name, launches = called.fn.__name__, 1
        else:
            name = called._schema.name.partition("::")[2]
            if _launches_nothing(called, name):
                return
            launches = _KERNELS.get(name, 1)
            if name.startswith(("_foreach", "_fused")):
                first = [x for x in inputs if x.dim()]
                each = max(1, len(first) // (4 if name.startswith("_fused") else 1))
                elements = sum(x.numel() for x in first[:each])
                launches = max(-(-elements // _FOREACH_ELEMENTS), -(-each // _FOREACH_TENSORS))
        self.launches[name] += launches
        distinct = {id(x): x for x in (*inputs, *outputs)}
        self.bytes[name] += sum(_bytes(x) for x in distinct.values())


def _launches_nothing(called: Any, name: str) -> bool:
    """Views and allocations."""
    if name.startswith(("empty", "new_empty")) or name in ("_unsafe_view", "detach", "device", "set_", "lift_fresh"):
        return True
    returns = called._schema.returns
    return bool(returns) and all(r.alias_info is not None and not r.alias_info.is_write for r in returns)


def _bytes(x: Tensor) -> int:
    """Bytes that are read or written: an expanded dimension is read once."""
    elements = 1
    for size, stride in zip(x.shape, x.stride(), strict=True):
        elements *= size if stride else 1
    return elements * x.element_size()


def _efficient_attention(
    query: Tensor, key: Tensor, value: Tensor, *, attn_mask: Tensor | None, dropout_p: float, is_causal: bool
) -> Tensor:
    """What PyTorch chooses on a GPU for a mask of padding; without a device it would choose plain operators."""
    if attn_mask is not None:
        attn_mask = attn_mask.expand(*query.shape[:3], key.shape[2])
    attention = torch.ops.aten._scaled_dot_product_efficient_attention
    output: Tensor = attention(query, key, value, attn_mask, torch.is_grad_enabled(), dropout_p, is_causal)[0]
    return output


def one_batch(tokens: int, length: int, vocabulary: int) -> Batch:
    """Pairs of full length: ``tokens`` target tokens or a few more."""
    sentences = -(-tokens // length)
    random = torch.Generator().manual_seed(1)
    source, target = (torch.randint(4, vocabulary, (sentences, length), generator=random) for _ in range(2))
    return Batch(
        source=source,
        target=target,
        target_positions=torch.arange(sentences * length),
        indices=np.arange(sentences),
        source_tokens=source.numel(),
        target_tokens=target.numel(),
    )


def count_update(config: Config, batch: Batch, vocabulary: int) -> LaunchCounter:
    """What an update of a batch launches; the first update, which makes Adam's state, is not counted."""
    tokenizers = mock.Mock(spec=TokenizerPair)
    tokenizers.source.size = tokenizers.target.size = vocabulary
    counter = LaunchCounter()
    is_counting = False

    def observe(*what: Any) -> None:
        if is_counting:
            counter(*what)

    with (
        fake_cuda(observe) as device,
        mock.patch.object(clip_grad, "_has_foreach_support", return_value=True),  # it asks for the type of tensors
        mock.patch.object(F, "scaled_dot_product_attention", _efficient_attention),
    ):
        device.may_be_read = True
        model = build_model(config.model, tokenizers).to("cuda")
        device.may_be_read = False
        objective = TranslationObjective(model, label_smoothing=config.training.label_smoothing)
        parameters = list(model.parameters())
        optimizer = build_optimizer(parameters, config.training)
        scaler = torch.amp.GradScaler("cuda", enabled=False)
        for update in (0, 1):
            is_counting = update == 1
            with torch.autocast("cuda", dtype=torch.bfloat16):
                loss, *_ = objective(batch.to("cuda"))
            (loss / batch.target_tokens).backward()
            norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
            step_unless_nonfinite(optimizer, scaler, norm)
            optimizer.zero_grad(set_to_none=True)
    return counter


def main() -> int:
    """Parse, count, print."""
    parser = make_parser(__doc__)
    parser.add_argument("--config", default="configs/base.yaml", help="the experiment (default: %(default)s)")
    parser.add_argument("--attention", nargs="+", default=list(ATTENTION_VARIANTS), choices=list(ATTENTION_VARIANTS))
    parser.add_argument("--tokens", type=int, default=25_000, help="target tokens of the update (%(default)s)")
    parser.add_argument("--length", type=int, default=28, help="tokens of a sentence, either side (%(default)s)")
    parser.add_argument("--vocabulary", type=int, default=32_000, help="sub-words of either side (%(default)s)")
    parser.add_argument("--top", type=int, default=0, metavar="N", help="list the N operators with most traffic")
    options = parser.parse_args()
    batch = one_batch(options.tokens, options.length, options.vocabulary)
    rows = []
    print_row(["attention", "launches", "elementwise GB", "matmul GB"], (12, 10, 16, 11))
    for attention in options.attention:
        config = load_config(options.config, [f"model.attention={attention}", *_UNUSED])
        counter = count_update(config, batch, options.vocabulary)
        matmul = sum(size for name, size in counter.bytes.items() if name in _MATMULS) / 1e9
        elementwise = sum(counter.bytes.values()) / 1e9 - matmul
        launches = sum(counter.launches.values())
        rows.append({"attention": attention, "launches": launches, "elementwise_gb": elementwise, "matmul_gb": matmul})
        print_row([attention, f"{launches:,}", f"{elementwise:.1f}", f"{matmul:.1f}"], (12, 10, 16, 11))
        for name, size in counter.bytes.most_common(options.top):
            print_row([f"  {name}", counter.launches[name], f"{size / 1e9:.2f}"], (42, 6, 10))
    write_document(options.json, {"command": "python " + " ".join(sys.argv), "torch": torch.__version__, "rows": rows})
    return 0


if __name__ == "__main__":
    sys.exit(cli.run("count_launches", lambda _: main()))
