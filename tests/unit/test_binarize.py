"""Text becomes the ids of its lines, whatever the blocks it is cut into and the threads that encode them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nmt_rela.data.indexed_dataset import ParallelDataset
from nmt_rela.data.tokenizer import EOS, TokenizerPair
from nmt_rela.preparation.binarize import binarize
from nmt_rela.preparation.tokenizer_training import train_sentencepiece

LINES = [f"zeile {number} mit {'wort ' * (number % 9)}und ende" for number in range(240)]
ODD = ["a\u2028b", "\x0c", "\x00", "ﬁ ＡＢ", "x" * 900]


@pytest.fixture(scope="module")
def tokenizers() -> TokenizerPair:
    tokenizer = train_sentencepiece(
        iter(LINES), algorithm="bpe", size=60, character_coverage=1.0, normalization="nmt_nfkc"
    )
    return TokenizerPair(tokenizer, tokenizer)


def binarized(
    directory: Path, tokenizers: TokenizerPair, pairs: list[tuple[str, str]], **options: Any
) -> tuple[ParallelDataset, dict[str, list[int]]]:
    for name, lines in zip("st", zip(*pairs, strict=True), strict=True):
        (directory / name).write_bytes("".join(f"{line}\n" for line in lines).encode("utf-8"))
    changed = binarize(directory / "s", directory / "t", tokenizers, directory / "dataset", **options)
    return ParallelDataset(directory / "dataset"), {name: lines.tolist() for name, lines in changed.items()}


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("block", [1, 500, 1 << 20])
def test_ids_are_those_of_the_lines_one_by_one(
    tmp_path: Path, tokenizers: TokenizerPair, workers: int, block: int
) -> None:
    lines = [*LINES[:100], *ODD, *LINES[100:]]
    pairs = list(zip(lines, reversed(lines), strict=True))
    dataset, _ = binarized(tmp_path, tokenizers, pairs, workers=workers, lines=len(lines), block_bytes=block)
    assert len(dataset) == len(lines)
    for index, line in enumerate(lines):
        (ids,) = tokenizers.source.encode([line])
        assert dataset.sources[index].tolist() == [*ids, EOS]
        assert dataset.targets[len(lines) - 1 - index].tolist() == [*ids, EOS]


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(("way", "fate", "pairs"), [("drop", "overlength", 16), ("truncate", "truncated", 18)])
def test_changed_pairs_are_named(
    tmp_path: Path, tokenizers: TokenizerPair, workers: int, way: str, fate: str, pairs: int
) -> None:
    short, long = ("kurz", "wort"), "wort " * 40
    first = [*[short] * 10, (long, "kurz")]
    third = [*[short] * 5, ("\x0c", "kurz"), ("kurz", long), short]
    options = {"max_length": 20, "on_overlength": way, "workers": workers}
    dataset, changed = binarized(tmp_path, tokenizers, first + third, lines=19, block_bytes=60, **options)
    assert changed == {"overlength": [], "truncated": [], fate: [10, 17], "empty": [16]}
    assert len(dataset) == pairs
    longest = max(int(dataset.source_lengths.max()), int(dataset.target_lengths.max()))
    assert (longest == 20) == (way == "truncate")
