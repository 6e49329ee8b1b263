"""How fast this machine is with a model: a few updates and translations of random sentences, without any data."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, cast

import torch

from nmt_rela.config.schema import AttentionKind, Config
from nmt_rela.generation.beam_search import beam_search
from nmt_rela.models.transformer import Transformer
from nmt_rela.training.loss import fused_linear_cross_entropy
from nmt_rela.training.optimizer import build_optimizer
from nmt_rela.training.precision import resolve_precision

#: Sub-words of a usual sentence, end of sentence included.
SENTENCE = 28
#: Padded tokens of a measured micro-batch where there is no GPU: less time, and hardly another rate.
_CPU_TOKENS = 1024
#: Seconds after which a measurement is thought long enough.
_ENOUGH = 4.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Speed:
    """Measured rates of one kind of attention on one device."""

    device: str
    precision: str
    parameters: int
    #: Of one update on one device, the whole of its micro-batches.
    seconds_per_update: float
    #: Target tokens a second, padding counted.
    training_tokens: float
    #: Output tokens a second of beam search.
    decoding_tokens: float


def parameters_of(config: Config) -> int:
    """How many parameters the model has, if its vocabularies have the size that is asked for."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in _model(config).parameters())


def measure(config: Config, kind: str) -> Speed:
    """Train and translate for some seconds with a model of the configuration and an attention kind."""
    if "/" not in kind:
        config = replace(config, model=replace(config.model, attention=cast(AttentionKind, kind)))
    training = config.training
    device = torch.device("cuda" if torch.cuda.is_available() and training.device != "cpu" else "cpu")
    precision = resolve_precision(training.precision, device)
    torch.manual_seed(1)
    model = _model(config).to(device)
    parameters = list(model.parameters())
    optimizer = build_optimizer(parameters, training)
    tokens = training.batch_tokens if device.type == "cuda" else min(training.batch_tokens, _CPU_TOKENS)
    sentences = max(1, tokens // SENTENCE)
    text = torch.randint(4, config.data.vocabulary_size, (sentences, SENTENCE), device=device)

    def micro_batch() -> None:
        with torch.autocast(device.type, dtype=precision, enabled=precision is not torch.float32):
            states = model(text, model.shift(text))
            loss, _ = fused_linear_cross_entropy(
                states.flatten(0, 1), model.output_weight, text.flatten(), smoothing=training.label_smoothing
            )
        loss.backward()

    optimizer.found_inf = torch.zeros((), device=device)  # type: ignore[attr-defined]
    batch_seconds = _median_seconds(micro_batch, device)
    step_seconds = _median_seconds(optimizer.step, device)
    batches = training.accumulate * training.batch_tokens / (sentences * SENTENCE)
    model.eval()
    beams = config.decoding.beam_size
    read = text[: max(1, config.decoding.batch_tokens // beams // SENTENCE)] if device.type == "cuda" else text[:16]
    decoding_seconds = _median_seconds(lambda: _translate(model, read, beams), device)
    return Speed(
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        precision=str(precision).removeprefix("torch."),
        parameters=sum(parameter.numel() for parameter in parameters),
        seconds_per_update=batches * batch_seconds + step_seconds,
        training_tokens=sentences * SENTENCE / batch_seconds,
        decoding_tokens=len(read) * SENTENCE / decoding_seconds,
    )


def _model(config: Config) -> Transformer:
    size = config.data.vocabulary_size
    return Transformer(size, size, **asdict(config.model))


@torch.no_grad()
def _translate(model: Transformer, source: torch.Tensor, beams: int) -> None:
    state = model.start_decoding(model.encode(source), beams=beams, max_length=SENTENCE)
    lengths = torch.full((len(source),), SENTENCE, device=source.device)
    beam_search(state, beam_size=beams, min_length=SENTENCE - 1, max_lengths=lengths)


def _median_seconds(work: Callable[[], Any], device: torch.device) -> float:
    """Of some repetitions, after one that warms up; work that takes long is done once more only."""
    seconds: list[float] = []
    begun = time.perf_counter()
    while len(seconds) < 2 or (len(seconds) < 20 and time.perf_counter() - begun < _ENOUGH):
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


def _processor() -> str:
    return f"CPU ({platform.processor() or platform.machine()}, {torch.get_num_threads()} threads)"
