"""A language of digits: a corpus, a task and an experiment that train in seconds through the real commands."""

from __future__ import annotations

import random
from pathlib import Path

TASK = """
title: digits
licence: made here
languages: [plain, turned]
train:
  - name: train
    files: {plain: train.plain, turned: train.turned}LINKS
dev:
  - name: dev
    files: {plain: dev.plain, turned: dev.turned}
tests:
  - name: test
    files: {plain: test.plain, turned: test.turned}
"""

CONFIG = """
run_dir: RUN
data:
  task: digits.yaml
  source_language: plain
  target_language: turned
  data_dir: DATA
  vocabulary_size: 25
  drop_untranslated: false
model:
  attention: VARIANT
  encoder_layers: 2
  decoder_layers: 2
  d_model: 64
  ffn_dim: 128
  num_heads: 4
  norm_order: pre
  dropout: 0.0
  embedding_dropout: 0.0
  attention_dropout: 0.0
  ffn_dropout: 0.0
  tied_embeddings: all
training:
  max_updates: 500
  update_tokens: 1024
  lr_schedule: inverse_sqrt
  learning_rate: 0.004
  warmup_updates: 60
  max_grad_norm: 1.0
  log_every: 100
  validate_every: 1000
  validation_decode_sentences: 20
  save_every: 500
decoding:
  batch_tokens: 4000
"""

#: Overrides for tests in which nothing need be learned.
TINY = [
    *("model.encoder_layers=1", "model.decoder_layers=1", "model.d_model=16", "model.ffn_dim=16"),
    *("model.num_heads=2", "decoding.beam_size=2", "decoding.max_length_offset=0"),
]


def write_digits(
    directory: Path, *, reverse: bool, pairs: int = 4_000, variant: str = "rela-g", links: bool = False
) -> Path:
    """Write text (no test sentence among the training ones), task and configuration; return the last one's path.

    ``links``: the training text has word links.
    """
    generator = random.Random(11)
    seen: dict[str, None] = {}
    while len(seen) < pairs + 200:
        seen[" ".join(generator.choice("0123456789") for _ in range(generator.randint(3, 9)))] = None
    lines = list(seen)
    for name, part in (("test", lines[:150]), ("dev", lines[150:200]), ("train", lines[200:])):
        (directory / f"{name}.plain").write_text("".join(f"{line}\n" for line in part), encoding="utf-8")
        turned = [line[::-1] if reverse else line for line in part]
        (directory / f"{name}.turned").write_text("".join(f"{line}\n" for line in turned), encoding="utf-8")
    given = "\n    alignments: {file: train.align, order: [turned, plain]}" if links else ""
    (directory / "digits.yaml").write_text(TASK.replace("LINKS", given), encoding="utf-8")
    if links:
        lengths = [len(line.split()) for line in lines[200:]]
        rows = (((n - 1 - i if reverse else i, i) for i in range(n)) for n in lengths)
        text = "".join(" ".join(f"{i}-{j}" for i, j in row) + "\n" for row in rows)
        (directory / "train.align").write_text(text, encoding="utf-8")
    config = directory / "config.yaml"
    values = {"RUN": str(directory / "run"), "DATA": str(directory / "prepared"), "VARIANT": variant}
    text = CONFIG
    for name, value in values.items():
        text = text.replace(name, value)
    config.write_text(text, encoding="utf-8")
    return config
