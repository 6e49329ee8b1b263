"""Every setting, its type, default, meaning and accepted values: the manual.

A field's comment block (``#:`` lines above it) is its documentation. Fields without a default must be given.
``bounds(...)`` in a field's metadata says which values are allowed; the loader checks it and names the path.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, Literal

#: ``data.task`` of a run that was imported: the data of its training is not known.
IMPORTED = "imported"
AttentionName = Literal["softmax", "sparsemax", "entmax15", "rela-i", "rela-g"]
MetricName = Literal["bleu", "chrf", "chrf++", "ter", "comet"]


def bounds(*, low: float | None = None, high: float | None = None) -> Mapping[str, Any]:
    """Metadata of a numeric field: inclusive bounds; None is unbounded."""
    return {"low": low, "high": high}


def show_settings(settings: Any, separator: str = ", ") -> str:
    """The call that makes a dataclass of settings, without those that have their default."""
    shown = []
    for item in fields(settings):
        default = item.default if item.default_factory is MISSING else item.default_factory()
        if repr(value := getattr(settings, item.name)) != repr(default):
            shown.append(f"{item.name}={value!r}")
    return f"{type(settings).__name__}({separator.join(shown)})"


#: Metadata of a path.
PATH = {"is_path": True}

#: What other toolkits call a setting that has another name here; an error offers it.
OTHER_NAMES = {"early_stopping": ("training.patience",), "early_stopping_patience": ("training.patience",)}


@dataclass(frozen=True, kw_only=True, slots=True)
class AttentionBySite:
    """One attention variant per site."""

    #: Encoder self-attention.
    encoder: AttentionName
    #: Decoder self-attention (causal).
    decoder: AttentionName
    #: Decoder-to-encoder attention.
    cross: AttentionName

    def __str__(self) -> str:
        return f"{self.encoder}/{self.decoder}/{self.cross}"


@dataclass(frozen=True, kw_only=True, slots=True)
class RegularizationBySide:
    """Sub-word regularization of each side; 0 is none."""

    #: Source side.
    source: float = field(default=0.0, metadata=bounds(low=0.0, high=1.0))
    #: Target side.
    target: float = field(default=0.0, metadata=bounds(low=0.0, high=1.0))


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """Which corpus, in which direction, and how it is cleaned and split into sub-words."""

    __repr__ = show_settings

    #: A task: a name in ``data/tasks/`` or the path of a task file, relative to the config that names it.
    task: str
    #: Source language, as the task file names it.
    source_language: str
    #: Target language, as the task file names it.
    target_language: str
    #: Directory of archives and prepared data; several runs may use the same one.
    data_dir: str = field(default="data/prepared", metadata=PATH)
    #: Existing sub-word models instead of new ones: a run directory, a directory with joint.model or with source.model
    #: and target.model, or one SentencePiece model file for both sides. With training.initialize_from the default is
    #: that run's. The settings of new models then have no effect, except joint_vocabulary.
    vocabulary: str = field(default="", metadata=PATH)
    #: Sub-word algorithm of SentencePiece.
    subword_model: Literal["bpe", "unigram"] = "bpe"
    #: One vocabulary for both languages (true) or one each (false).
    joint_vocabulary: bool = True
    #: Sub-words per vocabulary, the four special ones included. Lowered, with a warning, where the corpus is too
    #: small for it. auto: one for every ten training pairs, from 1,000 to 32,000, beside the characters of the corpus.
    vocabulary_size: Literal["auto"] | int = field(default=32_000, metadata=bounds(low=8, high=1_000_000))
    #: Largest number of sentences, sampled evenly over the corpus, that SentencePiece is trained on.
    tokenizer_sample_size: int = field(default=2_000_000, metadata=bounds(low=1))
    #: Fraction of the characters that SentencePiece must cover.
    character_coverage: float = field(default=1.0, metadata=bounds(low=0.98, high=1.0))
    #: Sub-words per side (end of sentence included) above which a training pair is dropped or truncated.
    max_length: int = field(default=256, metadata=bounds(low=2, high=65_535))
    #: A training pair longer than max_length is dropped as a whole, or either side is truncated.
    on_overlength: Literal["drop", "truncate"] = "drop"
    #: A pair is dropped when one side has more than this many times the words of the other (pairs of up to five
    #: words are kept).
    max_length_ratio: float = field(default=9.0, metadata=bounds(low=1.0))
    #: Drop second and later occurrences of an exact pair.
    drop_duplicates: bool = True
    #: Drop pairs whose target is a copy of the source (three words or more).
    drop_untranslated: bool = True
    #: SentencePiece's normalization: "nmt_nfkc", "nfkc" (keeps zero-width joiners), "identity" (keeps every character),
    #: or auto: by the scripts of the languages that a vocabulary holds.
    normalization: Literal["auto", "nmt_nfkc", "nfkc", "identity"] = "auto"
    #: Romanian text: "none" leaves it; "cedilla" writes ş ţ with a comma below; "remove" strips all diacritics.
    romanian_diacritics: Literal["none", "cedilla", "remove"] = "none"
    #: Use only the first pairs of every training source (0: all), for trials.
    max_pairs_per_source: int = field(default=0, metadata=bounds(low=0))
    #: Train on another segmentation of every sentence in each epoch (0: off); one number, or a mapping with the keys
    #: source, target. bpe: the probability that a merge is left out, usually 0.1. unigram: the exponent of the
    #: probabilities, usually 0.1 to 0.5; segmentations differ the more the smaller it is.
    subword_regularization: float | RegularizationBySide = field(default=0.0, metadata=bounds(low=0.0, high=1.0))
    #: Times that the pairs of a training source are seen in an epoch, by the source's name, such as {news: 2, web: 0.5}
    #: (1 for sources that are not named).
    weights: dict[str, float] = field(default_factory=dict, metadata=bounds(low=0.001, high=1000.0))
    #: Instead of weights: the fractions of the training sources in an epoch are proportional to size^(1/temperature).
    #: 1 leaves them as they are, larger ones make them more equal.
    temperature: float = field(default=1.0, metadata=bounds(low=1.0, high=100.0))

    @property
    def regularization(self) -> tuple[float, float]:
        """Sub-word regularization of the source and of the target side."""
        found = self.subword_regularization
        return (found.source, found.target) if isinstance(found, RegularizationBySide) else (found, found)

    @property
    def languages(self) -> tuple[str, str]:
        """Source and target language."""
        return self.source_language, self.target_language


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """The Transformer. Field names are the arguments of ``models.transformer.Transformer``."""

    __repr__ = show_settings

    #: One for all three sites, or a mapping with the keys encoder, decoder, cross.
    attention: AttentionName | AttentionBySite = "rela-g"
    #: Encoder layers.
    encoder_layers: int = field(default=6, metadata=bounds(low=1, high=1_000))
    #: Decoder layers.
    decoder_layers: int = field(default=6, metadata=bounds(low=1, high=1_000))
    #: Width of the model; a multiple of num_heads.
    d_model: int = field(default=512, metadata=bounds(low=1, high=65_536))
    #: Inner width of the feed-forward blocks.
    ffn_dim: int = field(default=2048, metadata=bounds(low=1, high=1_000_000))
    #: Attention heads at every site.
    num_heads: int = field(default=8, metadata=bounds(low=1, high=1_024))
    #: Layer norm after the residual sum (the paper) or before each block.
    norm_order: Literal["post", "pre"] = "post"
    #: Added to the variance in every layer norm.
    layer_norm_epsilon: float = field(default=1e-8, metadata=bounds(low=0.0, high=1.0))
    #: Function inside the feed-forward blocks. The Triton kernel of that place is for relu.
    activation: Literal["relu", "swish", "gelu"] = "relu"
    #: Dropout on each block's output before the residual sum.
    dropout: float = field(default=0.1, metadata=bounds(low=0.0, high=0.9))
    #: Dropout on embeddings plus positions.
    embedding_dropout: float = field(default=0.1, metadata=bounds(low=0.0, high=0.9))
    #: Dropout on attention weights, without re-normalizing.
    attention_dropout: float = field(default=0.1, metadata=bounds(low=0.0, high=0.9))
    #: Dropout inside the feed-forward block, after its activation.
    ffn_dropout: float = field(default=0.1, metadata=bounds(low=0.0, high=0.9))
    #: Which embeddings share one matrix: target input with the output layer, all three (joint vocabulary only), or
    #: none.
    tied_embeddings: Literal["target", "all", "none"] = "target"
    #: Multiply embeddings by √d_model before positions are added.
    scale_embeddings: bool = True
    #: A learned vector added to every embedding, shared by both sides (the released code has it).
    embedding_bias: bool = False
    #: A learned number added to the logit of every sub-word.
    output_bias: bool = False
    #: Wavelengths of the sinusoidal positions: up to 10,000 · 2π, or ending one step before it (Marian, transformers).
    positions: Literal["tensor2tensor", "marian"] = "tensor2tensor"
    #: First decoder input: a learned begin-of-sentence embedding, or a zero vector (the released code).
    decoder_start: Literal["bos", "zero"] = "bos"


@dataclass(frozen=True, kw_only=True, slots=True)
class GuidedAlignmentConfig:
    """Cross-attention that learns given word links."""

    #: Factor of its loss beside the translation loss: 0.05 for long trainings, up to 0.5 for short ones (0: off). The
    #: links are those of the training sources (``alignments`` in the task file).
    weight: float = field(default=0.0, metadata=bounds(low=0.0, high=100.0))
    #: The decoder layer, from 0, or auto: at five sixths of the depth.
    layer: Literal["auto"] | int = field(default="auto", metadata=bounds(low=0))
    #: How many of its heads, from head 0 on.
    heads: int = field(default=1, metadata=bounds(low=1))

    def layer_of(self, decoder_layers: int) -> int:
        """The number of the layer in a decoder."""
        return five_sixths(decoder_layers) if self.layer == "auto" else self.layer


def five_sixths(num_layers: int) -> int:
    """The layer at five sixths of the depth, from 0.

    It is the fifth of the paper's six, where links from the predicting step are best, and the last of shallow decoders.
    """
    return max(round(num_layers * 5 / 6) - 1, 0)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingConfig:
    """Optimization, duration of the run, validation, logging and checkpoints."""

    __repr__ = show_settings

    #: Stop after this many updates.
    max_updates: int = field(default=300_000, metadata=bounds(low=1))
    #: Stop after this many passes over the corpus (0: no limit).
    max_epochs: int = field(default=0, metadata=bounds(low=0))
    #: Save and stop after this many hours of the process (0: no limit), for cluster queues.
    max_hours: float = field(default=0.0, metadata=bounds(low=0.0, high=100_000.0))
    #: Size of an update: padded tokens of the longer side of its pairs. It does not depend on the number of devices.
    update_tokens: int = field(default=25_000, metadata=bounds(low=8, high=1_000_000_000))
    #: Padded tokens, both sides, of one micro-batch on one device, or auto: by the memory of the device. It changes
    #: memory and speed only.
    max_batch_tokens: Literal["auto"] | int = field(default="auto", metadata=bounds(low=1, high=1_000_000_000))
    #: The loss of an update is its mean over target tokens, or (the released code) over sentences of token means.
    loss_normalization: Literal["tokens", "sentences"] = "tokens"
    #: Probability moved from the correct token to the others, evenly.
    label_smoothing: float = field(default=0.1, metadata=bounds(low=0.0, high=0.9))
    #: noam: factor · d_model^-½ · min(step^-½, step · warmup_updates^-1.5); inverse_sqrt: the same with its peak at
    #: learning_rate; constant: learning_rate after the warm-up; linear: from learning_rate to 0 at max_updates.
    lr_schedule: Literal["noam", "inverse_sqrt", "constant", "linear"] = "noam"
    #: Factor of noam; peak of the other schedules.
    learning_rate: float = field(default=1.0, metadata=bounds(low=0.0, high=1_000.0))
    #: Updates of linear warm-up.
    warmup_updates: int = field(default=4_000, metadata=bounds(low=1))
    #: Adam's first decay.
    adam_beta1: float = field(default=0.9, metadata=bounds(low=0.0, high=0.999999))
    #: Adam's second decay.
    adam_beta2: float = field(default=0.98, metadata=bounds(low=0.0, high=0.999999))
    #: Adam's epsilon.
    adam_epsilon: float = field(default=1e-8, metadata=bounds(low=0.0, high=1.0))
    #: Decoupled weight decay (0: off).
    weight_decay: float = field(default=0.0, metadata=bounds(low=0.0, high=100.0))
    #: Clip the global gradient norm to this (0: off).
    max_grad_norm: float = field(default=0.0, metadata=bounds(low=0.0))
    #: auto: bf16 on a GPU that has it, otherwise float32.
    precision: Literal["auto", "float32", "tf32", "bf16", "fp16"] = "auto"
    #: auto: all visible GPUs, or the CPU if there is none.
    device: Literal["auto", "cpu", "cuda"] = "auto"
    #: Decay of a moving average of the weights, such as 0.9999 (0: off). Where it is on, validation, checkpoints and
    #: every command have the averaged weights. Early in training the decay is (1 + update) / (10 + update) at most.
    ema_decay: float = field(default=0.0, metadata=bounds(low=0.0, high=0.999999))
    #: One seed for parameters, batches and dropout.
    seed: int = field(default=1, metadata=bounds(low=0))
    #: Stop after this many non-finite updates in a row (checked at log lines, validations and checkpoints).
    max_consecutive_nonfinite_updates: int = field(default=10, metadata=bounds(low=1))
    #: Updates between log lines.
    log_every: int = field(default=100, metadata=bounds(low=1))
    #: Updates between validations (loss, perplexity and evaluation.metrics on the development set).
    validate_every: int = field(default=5_000, metadata=bounds(low=1))
    #: Development sentences translated per validation, at most (0: none, -1: all).
    validation_decode_sentences: int = field(default=-1, metadata=bounds(low=-1))
    #: Updates between checkpoints; one is saved at every validation too.
    save_every: int = field(default=5_000, metadata=bounds(low=1))
    #: Newest checkpoints kept.
    keep_last_checkpoints: int = field(default=5, metadata=bounds(low=1))
    #: Best checkpoints kept besides.
    keep_best_checkpoints: int = field(default=1, metadata=bounds(low=0))
    #: The measure on the development set that decides which checkpoint is best: the highest one, or the lowest loss or
    #: TER. Validation computes it also where it is not among evaluation.metrics.
    checkpoint_metric: Literal["loss"] | MetricName = "bleu"
    #: Stop after this many validations in a row without improvement of checkpoint_metric (0: never).
    patience: int = field(default=0, metadata=bounds(low=0))
    #: A run directory from whose weights training starts.
    initialize_from: str = field(default="", metadata=PATH)
    #: Updates recorded by torch's profiler into the run's profile/, soon after the start (0: none).
    profile_updates: int = field(default=0, metadata=bounds(low=0))
    #: Word links for the cross-attention.
    guided_alignment: GuidedAlignmentConfig = GuidedAlignmentConfig()


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodingConfig:
    """The search of validation, nmt-translate and nmt-evaluate."""

    __repr__ = show_settings

    #: Hypotheses kept per sentence; 1 is greedy search.
    beam_size: int = field(default=4, metadata=bounds(low=1, high=256))
    #: Exponent of the length penalty ((5 + length) / 6)^alpha; 0 is none.
    length_penalty: float = field(default=0.6, metadata=bounds(low=0.0, high=10.0))
    #: End a sentence as soon as beam_size hypotheses have finished among the best beam_size candidates of a step,
    #: instead of when no better one can come. Faster, and necessary with strong length penalties.
    early_stopping: bool = False
    #: A translation has at most source length + this many sub-words.
    max_length_offset: int = field(default=50, metadata=bounds(low=0, high=10_000))
    #: A translation has at least this many sub-words; at most max_length_offset + 1 may be asked for.
    min_length: int = field(default=0, metadata=bounds(low=0, high=10_001))
    #: Padded source tokens times beam_size per decoding batch, or auto: 16,000 on a CPU, and up to 128,000 on a GPU, by
    #: its memory. It changes memory and speed only.
    batch_tokens: Literal["auto"] | int = field(default="auto", metadata=bounds(low=8, high=100_000_000))


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationConfig:
    """The scores of validation, nmt-evaluate, the model card and the report of nmt-reproduce."""

    __repr__ = show_settings

    #: A list of metrics of translations. BLEU, chrF, chrF++ and TER are sacreBLEU's; comet needs ``pip install
    #: unbabel-comet``.
    metrics: tuple[MetricName, ...] = ("bleu", "chrf")
    #: The model of COMET: a name on the Hugging Face Hub, or the path of its model.ckpt.
    comet_model: str = "Unbabel/wmt22-comet-da"


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """One experiment."""

    def __repr__(self) -> str:
        return show_settings(self, ",\n       ")

    #: The run directory, relative to where the command is called.
    run_dir: str = field(metadata=PATH)
    #: The corpus.
    data: DataConfig
    #: The model.
    model: ModelConfig
    #: The optimization.
    training: TrainingConfig
    #: The search.
    decoding: DecodingConfig
    #: The scores.
    evaluation: EvaluationConfig = EvaluationConfig()
