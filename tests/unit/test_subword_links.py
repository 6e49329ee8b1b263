"""Links between words become links between the sub-words of any segmentation."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from random import Random

import numpy as np
import pytest

from nmt_rela.data.data_loader import collate
from nmt_rela.data.indexed_dataset import ParallelDataset, flatten, write_dataset
from nmt_rela.data.subword_sampler import SubwordSampler
from nmt_rela.data.tokenizer import EOS, SentencePieceTokenizer, TokenizerPair
from nmt_rela.metrics.word_alignment import words_of_subwords
from nmt_rela.preparation.links import binarize_links
from nmt_rela.preparation.tokenizer_training import train_sentencepiece
from nmt_rela.training.subword_links import SubwordLinks

LINES = [
    "der kleine hund sieht ein haus",
    "ein baum",
    "<bt> das haus am see",
    "x ▁ y  z",
    "hund ☃ haus ☃☃",
    "猫が家を見る。 ja",
]


@pytest.fixture(scope="module")
def tokenizer() -> SentencePieceTokenizer:
    return train_sentencepiece(
        iter(LINES * 9), algorithm="unigram", size=48, character_coverage=0.98, normalization="nfkc", tags=["<bt>"]
    )


@pytest.mark.parametrize("spaced", [True, False])
def test_all_sub_words_of_linked_words_are_linked(
    tmp_path: Path, tokenizer: SentencePieceTokenizer, spaced: bool
) -> None:
    random = np.random.default_rng(7)
    sampler, draws = SubwordSampler(tokenizer, 0.1), Random(3)
    sides = [[sampler.sample(ids, draws) for ids in tokenizer.encode(LINES * 2)] for _ in range(2)]
    sides[0][0] = sides[0][0][:3]  # truncated
    links = [
        {(int(i), int(j)) for i, j in random.integers(0, 9, (random.integers(0, 8), 2))} | {(0, 0)} for _ in sides[0]
    ]
    links[3] = set()
    text = "".join(" ".join(f"{i}-{j}" for i, j in sorted(of_pair)) + "\n" for of_pair in links)
    (tmp_path / "train.align").write_text(f"9-9\n{text}", "utf-8")
    binarize_links(tmp_path / "train.align", tmp_path / "links", without={0})
    pair = TokenizerPair(tokenizer, tokenizer)
    sizes = {"source_vocabulary_size": tokenizer.size, "target_vocabulary_size": tokenizer.size}
    with write_dataset(tmp_path / "corpus", **sizes, vocabulary_fingerprint=pair.fingerprint) as writer:
        writer.append(*flatten(sides[0]), *flatten(sides[1]))
    indices = np.array([5, 0, 3, 3, 11, 8, 4, 7, 2, 1])
    find_links = SubwordLinks(tmp_path / "links", pair, spaced=(spaced, spaced))
    batch = collate(ParallelDataset(tmp_path / "corpus"), indices, find_links=find_links)
    expected = set()
    for row, index in enumerate(indices):
        source, target = (
            words_of_subwords(tokenizer.convert_ids_to_pieces([*side[index], EOS]), spaced=spaced) for side in sides
        )
        for (s, of_source), (t, of_target) in product(enumerate(source), enumerate(target)):
            if links[index].intersection(product(of_source, of_target)):
                expected.add((row, t, s))
    assert batch.links is not None
    shape = (len(indices), batch.target.shape[1], batch.source.shape[1])
    found = list(zip(*(axis.tolist() for axis in np.unravel_index(batch.links.numpy(), shape)), strict=True))
    assert found == sorted(expected)
    assert batch.linked_tokens == len({(row, t) for row, t, _ in expected})
    assert collate(ParallelDataset(tmp_path / "corpus"), indices[:0], find_links=find_links).linked_tokens == 0
