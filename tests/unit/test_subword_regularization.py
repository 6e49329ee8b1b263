"""Sub-word regularization: the same sentences, other segmentations, drawn as SentencePiece draws them."""

from __future__ import annotations

import io
from collections import Counter
from pathlib import Path

import pytest
import sentencepiece

from nmt_rela.data.indexed_dataset import ParallelDataset, flatten, write_dataset
from nmt_rela.data.subword_regularization import resample, write_resampled_dataset
from nmt_rela.data.tokenizer import BOS, EOS, PAD, UNK, SentencePieceTokenizer, TokenizerPair

LINES = ["the little cat sees the old house", "the old tree", "a cat reads", "trees and houses", "the cats see"] * 30


def make_tokenizer(algorithm: str) -> SentencePieceTokenizer:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(LINES), model_writer=model, model_type=algorithm, vocab_size=60, hard_vocab_limit=False,
        pad_id=PAD, unk_id=UNK, eos_id=EOS, bos_id=BOS, minloglevel=2,
    )  # fmt: skip
    return SentencePieceTokenizer(model.getvalue(), name=algorithm)


@pytest.fixture(scope="module", params=["bpe", "unigram"])
def tokenizer(request: pytest.FixtureRequest) -> SentencePieceTokenizer:
    return make_tokenizer(request.param)


def test_segmentations_are_drawn_as_sentencepiece_draws_them(tokenizer: SentencePieceTokenizer) -> None:
    line, draws = "the old tree", 4_000
    ids = tokenizer.encode([line] * (draws // 20))
    ours = Counter(
        tuple(drawn) for seed in range(20) for drawn in resample(tokenizer, ids, alpha=0.3, seed=seed, max_length=99)
    )
    processor = sentencepiece.SentencePieceProcessor(model_proto=tokenizer._model)
    theirs = Counter(
        tuple(processor.encode(line, enable_sampling=True, nbest_size=-1, alpha=0.3)) for _ in range(draws)
    )
    assert len(ours) > 8
    common = [sequence for sequence, count in theirs.items() if count >= 40]
    assert common
    # Two samples of a frequency differ by five standard deviations in one of a million cases.
    assert all(abs(ours[found] - theirs[found]) < 5 * (ours[found] + theirs[found]) ** 0.5 for found in common)


def test_the_text_stays_and_the_same_seed_gives_the_same_ids(tokenizer: SentencePieceTokenizer) -> None:
    ids = tokenizer.encode(LINES)
    new = resample(tokenizer, ids, alpha=0.2, seed=5, max_length=99)
    assert new != ids
    assert tokenizer.decode(new) == LINES
    assert new == resample(tokenizer, ids, alpha=0.2, seed=5, max_length=99)
    assert new != resample(tokenizer, ids, alpha=0.2, seed=6, max_length=99)


def test_unknown_characters_and_the_largest_length_are_kept(tokenizer: SentencePieceTokenizer) -> None:
    with_unknown, plain = tokenizer.encode(["the 猫 sees", "the little cat sees the old house"])
    limit = len(plain) + 2
    new = resample(tokenizer, [with_unknown, plain] * 50, alpha=0.3, seed=1, max_length=limit)
    assert all(ids == with_unknown for ids in new[::2])
    assert max(map(len, new[1::2])) < limit


def test_an_epochs_dataset_depends_on_seed_and_epoch_alone(tokenizer: SentencePieceTokenizer, tmp_path: Path) -> None:
    ids = tokenizer.encode(LINES * 10)  # two blocks
    pair = TokenizerPair(tokenizer, tokenizer)
    sizes = {"source_vocabulary_size": tokenizer.size, "target_vocabulary_size": tokenizer.size}
    with write_dataset(tmp_path / "base", **sizes, vocabulary_fingerprint=pair.fingerprint) as writer:
        writer.append(*flatten(ids), *flatten(ids))
    base = ParallelDataset(tmp_path / "base")

    def epoch(number: int, seed: int, alphas: tuple[float, float] = (0.2, 0.0)) -> ParallelDataset:
        path = tmp_path / f"{number}-{seed}-{alphas}"
        write_resampled_dataset(base, pair, path, alphas=alphas, max_length=99, seed=seed, epoch=number)
        return ParallelDataset(path)

    first = epoch(0, 1)
    assert len(first) == len(base)
    assert first.fingerprint not in (base.fingerprint, epoch(1, 1).fingerprint, epoch(0, 2).fingerprint)
    assert (first.target_lengths == base.target_lengths).all()
    assert int(first.source_lengths.sum()) > int(base.source_lengths.sum())
    again = tmp_path / "again"
    write_resampled_dataset(base, pair, again, alphas=(0.2, 0.0), max_length=99, seed=1, epoch=0)
    assert ParallelDataset(again).fingerprint == first.fingerprint
