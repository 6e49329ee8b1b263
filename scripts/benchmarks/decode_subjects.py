"""What bench_decode.py compares: our models, with random or trained weights, and exported models in CTranslate2."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from memory_bandwidth import CountingDecoder

from nmt_rela.checkpoints.run_directory import RunDirectory
from nmt_rela.data.data_loader import pad_sequences
from nmt_rela.data.tokenizer import EOS, TokenizerPair
from nmt_rela.export.ctranslate2 import transformer_spec
from nmt_rela.generation.batching import batch_by_tokens, map_in_threads
from nmt_rela.generation.beam_search import beam_search
from nmt_rela.generation.decoding_step import SearchConstraints
from nmt_rela.generation.device import Precision, prepare_for_inference, resolve_device
from nmt_rela.generation.translator import Translator
from nmt_rela.kernels.availability import VARIABLE
from nmt_rela.models.decoders import start_decoder
from nmt_rela.models.incremental_decoder import IncrementalDecoder
from nmt_rela.models.transformer import Transformer
from nmt_rela.utils.errors import ConfigError
from nmt_rela.utils.text import read_lines


class Output(NamedTuple):
    """What a subject wrote: the number of tokens, the text of subjects that translate text, and the bytes that the
    decoder steps read at least (0: not counted).
    """

    tokens: int
    lines: list[str]
    bytes_read: int = 0


#: (indices of the sentences to translate, beam size, padded source tokens times beam size per batch) → output
Subject = Callable[[Sequence[int], int, int], Output]


def random_sentences(count: int, *, vocabulary: int) -> list[list[int]]:
    """Ids with lengths like those of image captions: log-normal, 14 on average."""
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randn(count, generator=generator).mul(0.3).add(2.6).exp().round().clamp(3, 60).int()
    return [
        [*torch.randint(4, vocabulary, (length,), generator=generator).tolist(), EOS] for length in lengths.tolist()
    ]


def random_model(attention: str, options: argparse.Namespace) -> Transformer:
    """A model with random weights."""
    torch.manual_seed(1)
    return Transformer(
        options.vocabulary, options.vocabulary, attention=attention, encoder_layers=options.layers,
        decoder_layers=options.layers, d_model=options.dimension, ffn_dim=options.feed_forward,
        num_heads=options.heads, tied_embeddings="all",
    ).eval()  # fmt: skip


def random_subject(attention: str, precision: Precision, options: argparse.Namespace) -> Subject:
    """A model with random weights on random sentences, at a forced length."""
    device = resolve_device(options.device)
    model = prepare_for_inference(random_model(attention, options).to(device), precision, device)
    return forced_subject(model, random_sentences(options.sentences, vocabulary=options.vocabulary), options)


def forced_subject(model: Transformer, sentences: list[list[int]], options: argparse.Namespace) -> Subject:
    """A model that must write ``--length`` tokens per sentence."""
    device = resolve_device(options.device)
    threads = torch.get_num_threads() if device.type == "cpu" else 1

    def translate(indices: Sequence[int], beam_size: int, batch_tokens: int) -> Output:
        chosen = [sentences[index] for index in indices]

        def search(batch: Sequence[int]) -> tuple[int, int]:
            with torch.inference_mode():
                source = pad_sequences([chosen[i] for i in batch]).to(device)
                state = start_decoder(model, source, num_beams=beam_size, max_length=options.length)
                # The caches of a CPU may hold the weights from step to step: there the minimum of reads means nothing.
                is_counted = device.type == "cuda" and isinstance(state, IncrementalDecoder)
                decoder = CountingDecoder(model, state) if is_counted else state  # type: ignore[arg-type]
                lengths = torch.full((len(batch),), options.length, device=device)
                constraints = SearchConstraints(max_lengths=lengths, min_length=options.length - 1)
                found = beam_search(decoder, constraints, beam_size=beam_size)
            return sum(len(hypotheses[0].tokens) for hypotheses in found), getattr(decoder, "bytes_read", 0)

        batches = list(batch_by_tokens([len(ids) for ids in chosen], batch_tokens // beam_size, threads=threads))
        results = [result for _, result in map_in_threads(search, batches, threads=threads)]
        return Output(sum(tokens for tokens, _ in results), [], sum(count for _, count in results))

    return translate


def run_subject(run: str, lines: list[str], precision: Precision, options: argparse.Namespace) -> Subject:
    """A trained run, on text."""
    translator = Translator.load(run, device=options.device, precision=precision)
    if options.forced:
        return forced_subject(translator.models[0], translator.tokenizers.source.encode(lines), options)
    wanted = {"early_stopping": options.early_stopping, "length_penalty": options.length_penalty}
    given = {name: value for name, value in wanted.items() if value is not None}

    def translate(indices: Sequence[int], beam_size: int, batch_tokens: int) -> Output:
        chosen = [lines[index] for index in indices]
        found = translator.translate(chosen, beam_size=beam_size, batch_tokens=batch_tokens, **given)
        tokens = sum(len(translation.hypotheses[0].tokens) for translation in found)
        return Output(tokens, [translation.text for translation in found])

    return translate


def ctranslate2_subject(
    directory: str, lines: list[str], compute_type: str, batches: int, options: argparse.Namespace
) -> Subject:
    """An exported model in CTranslate2 with ``batches`` concurrent batches and the tokenizer of the first run.

    Its length penalty is length^alpha.
    """
    if not (Path(directory) / "model.bin").is_file():
        raise ConfigError(f"{directory}: found no model.bin; accepted: output of nmt-export --format ctranslate2")
    ctranslate2 = importlib.import_module("ctranslate2")
    run = RunDirectory(options.run[0])
    tokenizers = run.load_tokenizers()
    alpha = run.config().decoding.length_penalty if options.length_penalty is None else options.length_penalty
    target = tokenizers.target
    ids_of = {piece: i for i, piece in enumerate(target.convert_ids_to_pieces(range(target.size)))}
    device = resolve_device(options.device).type
    threads = {"intra_threads": options.threads // batches, "inter_threads": batches}
    engine = ctranslate2.Translator(
        directory, device=device, compute_type=compute_type, **({} if device == "cuda" else threads)
    )

    def translate(indices: Sequence[int], beam_size: int, batch_tokens: int) -> Output:
        source = tokenizers.source
        pieces = [source.convert_ids_to_pieces(ids) for ids in source.encode([lines[index] for index in indices])]
        found = engine.translate_batch(
            pieces, beam_size=beam_size, max_batch_size=batch_tokens // beam_size, batch_type="tokens",
            max_decoding_length=256, length_penalty=alpha, disable_unk=True,
        )  # fmt: skip
        best = [[ids_of[piece] for piece in result.hypotheses[0]] for result in found]
        return Output(sum(len(ids) + 1 for ids in best), target.decode(best))

    return translate


class _Numbers:
    """A tokenizer whose sub-words are their ids."""

    def __init__(self, size: int) -> None:
        self.vocabulary = [str(token) for token in range(size)]


def random_ctranslate2_subject(compute_type: str, batches: int, options: argparse.Namespace) -> Subject:
    """The softmax model with random weights in CTranslate2, with ``batches`` concurrent batches, at a forced length."""
    ctranslate2 = importlib.import_module("ctranslate2")
    tokens: Any = _Numbers(options.vocabulary)
    spec = transformer_spec(
        random_model("softmax", options), TokenizerPair(tokens, tokens), alignment_heads=(options.layers - 1, 1)
    )
    spec.optimize()
    threads = {"intra_threads": options.threads // batches, "inter_threads": batches}
    with tempfile.TemporaryDirectory() as folder:
        spec.save(folder)
        engine = ctranslate2.Translator(folder, device="cpu", compute_type=compute_type, **threads)
    sentences = random_sentences(options.sentences, vocabulary=options.vocabulary)
    pieces = [[str(token) for token in ids[:-1]] for ids in sentences]

    def translate(indices: Sequence[int], beam_size: int, batch_tokens: int) -> Output:
        found = engine.translate_batch(
            [pieces[index] for index in indices], beam_size=beam_size, max_batch_size=batch_tokens // beam_size,
            batch_type="tokens", min_decoding_length=options.length - 1, max_decoding_length=options.length - 1,
        )  # fmt: skip
        return Output(sum(len(result.hypotheses[0]) + 1 for result in found), [])

    return translate


def without_kernels(make: Callable[[], Subject]) -> Subject:
    """A subject of a process in which PyTorch decodes."""
    os.environ[VARIABLE] = "off"
    return make()


def subjects_of(options: argparse.Namespace) -> tuple[dict[str, Callable[[], Subject]], int]:
    """By name: a function that makes the subject; and the number of sentences."""
    lines = list(read_lines(options.lines))[: options.sentences] if options.run else []
    subjects: dict[str, Callable[[], Subject]] = {}
    for model in options.run or options.attention:
        for precision in options.precision:
            ours = partial(run_subject, model, lines) if options.run else partial(random_subject, model)
            subjects[f"{model} {precision}"] = partial(ours, precision, options)
            if options.pytorch:
                subjects[f"{model} {precision} pytorch"] = partial(without_kernels, partial(ours, precision, options))
    if options.ctranslate2 is not None and importlib.util.find_spec("ctranslate2") is None:
        print("ctranslate2 is not installed: left out", file=sys.stderr)
    elif options.ctranslate2 is not None:
        make = partial(ctranslate2_subject, options.ctranslate2, lines) if options.run else random_ctranslate2_subject
        for compute_type in ("float32", "int8"):
            for batches in sorted({1, options.threads}):
                subjects[f"ctranslate2 {compute_type} {batches}"] = partial(make, compute_type, batches, options)
    return subjects, len(lines) if options.run else options.sentences
