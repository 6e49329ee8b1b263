"""A run directory with an untrained model, made in a second: enough to look at every weight of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import sentencepiece
import torch

from nmt_rela.checkpoints.checkpoint import write_checkpoint
from nmt_rela.checkpoints.run_directory import RunDirectory, build_model
from nmt_rela.config.loader import config_from_yaml, config_to_yaml
from nmt_rela.data.tokenizer import SentencePieceTokenizer, TokenizerPair

_WORDS = """
the a little old red house tree dog cat sees finds reads writes today often never near under
das ein kleine alte rote haus baum hund katze sieht findet liest schreibt heute oft nie nahe unter
"""
ENGLISH, GERMAN = (line.split() for line in _WORDS.strip().splitlines())

CONFIG = """
run_dir: {run}
data: {{task: demo, source_language: en, target_language: de, vocabulary_size: 96}}
model: {{attention: {attention}, encoder_layers: 2, decoder_layers: 2, d_model: 32, ffn_dim: 48, num_heads: 4}}
training: {{}}
decoding: {{max_length_offset: 2}}
"""


def write_text(directory: Path, sentences: int = 12) -> tuple[Path, Path, Path]:
    """A word-for-word text and its gold links: source, target, alignment."""
    generator = torch.Generator().manual_seed(5)
    rows = [
        torch.randint(
            len(ENGLISH), (int(torch.randint(3, 9, (1,), generator=generator)),), generator=generator
        ).tolist()
        for _ in range(sentences)
    ]
    paths = directory / "text.en", directory / "text.de", directory / "text.align"
    for path, lines in zip(
        paths,
        (
            [" ".join(ENGLISH[word] for word in row) for row in rows],
            [" ".join(GERMAN[word] for word in row) for row in rows],
            [" ".join(f"{i}-{i}" for i in range(len(row))) for row in rows],
        ),
        strict=True,
    ):
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return paths


def write_run(
    path: Path, *, attention: str = "rela-g", seed: int = 1, words: Sequence[str] = (*ENGLISH, *GERMAN)
) -> RunDirectory:
    """The run; its model's weights are drawn, not trained. Its sub-words are those of ``words``."""
    run = RunDirectory(path)
    path.mkdir(parents=True)
    corpus = path / "words.txt"
    corpus.write_text("".join(f"{word}\n" for word in words), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(corpus), model_prefix=str(path / "joint"), vocab_size=96, model_type="bpe",
        pad_id=0, unk_id=1, eos_id=2, bos_id=3, minloglevel=2, hard_vocab_limit=False,
    )  # fmt: skip
    joint = SentencePieceTokenizer.load(path / "joint.model")
    tokenizers = TokenizerPair(joint, joint)
    tokenizers.save(run.tokenizer)
    config = config_from_yaml(CONFIG.format(run=path, attention=attention), "small_run")
    run.config_file.write_text(config_to_yaml(replace(config, run_dir=str(path))), encoding="utf-8")
    torch.manual_seed(seed)
    model = build_model(config.model, tokenizers)
    write_checkpoint(
        run.checkpoints / "step_1",
        tensors={"model": model.state_dict()},
        state={"vocabulary": tokenizers.fingerprint},
    )
    run.link_checkpoint("last", "step_1")
    return run
