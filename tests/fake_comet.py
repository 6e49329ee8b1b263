"""A package ``comet`` with the interface of unbabel-comet 2.2.7, whose model counts words that are in the reference."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from nmt_rela.metrics.comet import load_comet

_PACKAGE = """
import logging
from types import SimpleNamespace

logging.basicConfig(level=logging.INFO)
calls = []


def download_model(model, saving_directory=None, local_files_only=False):
    if not model.startswith("Unbabel/"):
        raise KeyError(f"Model '{model}' not supported by COMET.")
    return f"/cache/{model}/checkpoints/model.ckpt"


def load_from_checkpoint(checkpoint_path, reload_hparams=False, strict=False, local_files_only=False):
    calls.append(str(checkpoint_path))
    return Model()


class Model:
    def predict(self, samples, batch_size=16, gpus=1, devices=None, mc_dropout=0, progress_bar=True,
                accelerator="auto", num_workers=None, length_batching=True):
        assert gpus == 0 or len(devices) == gpus
        calls.append((gpus, devices))
        scores = [word_overlap(sample["mt"], sample["ref"]) for sample in samples if sample["src"] is not None]
        return SimpleNamespace(scores=scores, system_score=sum(scores) / len(scores))


def word_overlap(hypothesis, reference):
    words = hypothesis.split()
    return sum(word in reference.split() for word in words) / max(1, len(words))
"""


def install(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the package on the path, for this test."""
    (directory / "comet").mkdir(parents=True)
    (directory / "comet" / "__init__.py").write_text(_PACKAGE)
    record = directory / "unbabel_comet-2.2.7.dist-info" / "METADATA"
    record.parent.mkdir()
    record.write_text("Metadata-Version: 2.1\nName: unbabel-comet\nVersion: 2.2.7\n")
    monkeypatch.syspath_prepend(directory)
    monkeypatch.delitem(sys.modules, "comet", raising=False)
    load_comet.cache_clear()
