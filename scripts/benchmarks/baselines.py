"""Encoder-decoders of other libraries in a standard PyTorch training loop, for comparison in bench_train.py."""

from __future__ import annotations

import importlib
import importlib.util
import warnings

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nmt_rela.config.schema import Config
from nmt_rela.data.data_loader import Batch
from nmt_rela.data.tokenizer import BOS, EOS, PAD, TokenizerPair
from nmt_rela.models.embedding import TokenEmbedding
from nmt_rela.utils.errors import ConfigError

#: The names of the other models.
OTHERS = ("torch.nn.Transformer", "transformers.Marian")


class PlainUpdates:
    """Another library's model of the size in a configuration, trained as its users do.

    The loop uses whole logits, PyTorch's cross-entropy, clipping and fused Adam. It never synchronizes with the device.

    Raises ConfigError for fp16, which needs a scaled loss.
    """

    def __init__(
        self, name: str, config: Config, *, tokenizers: TokenizerPair, device: torch.device, precision: torch.dtype
    ) -> None:
        if precision == torch.float16:
            raise ConfigError("training.precision: found 'fp16'; accepted with --others: float32, bf16")
        if device.type == "cuda":
            torch.backends.cuda.enable_cudnn_sdp(False)  # as ours: it is slow with ever other shapes
        torch.manual_seed(config.training.seed)
        make = _TorchTransformer if name == "torch.nn.Transformer" else _Marian
        self._model = make(config, tokenizers.source.size, tokenizers.target.size).to(device).train()
        settings = config.training
        self._optimizer = torch.optim.Adam(
            self._model.parameters(), lr=1e-4, betas=(settings.adam_beta1, settings.adam_beta2), fused=True
        )
        self._smoothing, self._clip_norm = settings.label_smoothing, settings.max_grad_norm
        self._device, self._precision = device, precision

    def step(self, batches: list[Batch]) -> Tensor:
        """One update; its loss per token, on the device."""
        tokens = sum(batch.target_tokens for batch in batches)
        summed = torch.zeros((), device=self._device)
        for batch in batches:
            sent = batch.to(self._device)
            with torch.autocast(self._device.type, dtype=self._precision, enabled=self._precision is not torch.float32):
                logits = self._model(sent.source, F.pad(sent.target[:, :-1], (1, 0), value=BOS))
                loss = F.cross_entropy(
                    logits.flatten(0, 1), sent.target.flatten(), ignore_index=PAD, reduction="sum",
                    label_smoothing=self._smoothing,
                )  # fmt: skip
            (loss / tokens).backward()
            summed += loss.detach()
        if self._clip_norm:
            nn.utils.clip_grad_norm_(self._model.parameters(), self._clip_norm)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return summed / tokens


class _TorchTransformer(nn.Module):
    def __init__(self, config: Config, source_size: int, target_size: int) -> None:
        super().__init__()
        model = config.model

        def weight(size: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(size, model.d_model).normal_(std=model.d_model**-0.5))

        target = weight(target_size)
        source = target if model.tied_embeddings == "all" else weight(source_size)
        self.output = weight(target_size) if model.tied_embeddings == "none" else target
        self.source_embedding = TokenEmbedding(source, bias=None, dropout=model.embedding_dropout)
        self.target_embedding = TokenEmbedding(target, bias=None, dropout=model.embedding_dropout)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that nested tensors, which serve inference alone, will not be used
            self.layers = nn.Transformer(
                model.d_model, model.num_heads, model.encoder_layers, model.decoder_layers, model.ffn_dim,
                model.dropout, batch_first=True, norm_first=model.norm_order == "pre",
            )  # fmt: skip

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """Logits [sentences, target length, vocabulary]."""
        padding = source == PAD
        length = target.shape[1]
        future = torch.ones(length, length, dtype=torch.bool, device=target.device).triu(1)
        states = self.layers(
            *(
                embedding.add_positions(embedding(tokens))
                for embedding, tokens in ((self.source_embedding, source), (self.target_embedding, target))
            ),
            tgt_mask=future, tgt_is_causal=True,
            src_key_padding_mask=padding, memory_key_padding_mask=padding,
        )  # fmt: skip
        return F.linear(states, self.output)


class _Marian(nn.Module):
    def __init__(self, config: Config, source_size: int, target_size: int) -> None:
        super().__init__()
        library, model = importlib.import_module("transformers"), config.model
        self.model = library.MarianMTModel(
            library.MarianConfig(
                vocab_size=source_size, decoder_vocab_size=target_size,
                share_encoder_decoder_embeddings=model.tied_embeddings == "all",
                tie_word_embeddings=model.tied_embeddings != "none",
                d_model=model.d_model, encoder_layers=model.encoder_layers,
                decoder_layers=model.decoder_layers, encoder_attention_heads=model.num_heads,
                decoder_attention_heads=model.num_heads, encoder_ffn_dim=model.ffn_dim,
                decoder_ffn_dim=model.ffn_dim, activation_function="relu", dropout=model.dropout,
                attention_dropout=model.attention_dropout, activation_dropout=model.ffn_dropout,
                max_position_embeddings=max(512, config.data.max_length), scale_embedding=True, pad_token_id=PAD,
                eos_token_id=EOS, bos_token_id=BOS, decoder_start_token_id=BOS, forced_eos_token_id=None,
            )
        )  # fmt: skip

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """Logits [sentences, target length, vocabulary]."""
        logits: Tensor = self.model(
            input_ids=source, attention_mask=(source != PAD).long(), decoder_input_ids=target, use_cache=False
        ).logits
        return logits


def installed(name: str) -> bool:
    """Whether the library of another model is installed."""
    return importlib.util.find_spec(name.split(".")[0]) is not None
