"""Sub-word regularization: the same sentences, other segmentations, drawn as SentencePiece draws them."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from random import Random

import pytest
import sentencepiece

from nmt_rela.data.indexed_dataset import ParallelDataset, flatten, write_dataset
from nmt_rela.data.subword_regularization import ResamplingProcess, resample
from nmt_rela.data.subword_sampler import SubwordSampler
from nmt_rela.data.tokenizer import BOS, EOS, PAD, UNK, SentencePieceTokenizer, TokenizerPair
from nmt_rela.utils.errors import DataError

LINES = ["the little cat sees the old house", "the old tree", "a cat reads", "trees and houses", "the cats see"] * 30


def make_tokenizer(
    algorithm: str, lines: list[str] = LINES, *, vocab_size: int = 60, byte_fallback: bool = False
) -> SentencePieceTokenizer:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=model, model_type=algorithm, vocab_size=vocab_size,
        hard_vocab_limit=False, byte_fallback=byte_fallback,
        user_defined_symbols=["<bt>", "treecat"], pad_id=PAD, unk_id=UNK, eos_id=EOS, bos_id=BOS, minloglevel=2,
    )  # fmt: skip
    return SentencePieceTokenizer(model.getvalue(), name=algorithm)


@pytest.fixture(scope="module", params=["bpe", "unigram"])
def tokenizer(request: pytest.FixtureRequest) -> SentencePieceTokenizer:
    return make_tokenizer(request.param)


def drawn(tokenizer: SentencePieceTokenizer, line: str, *, alpha: float, draws: int) -> Counter[tuple[int, ...]]:
    sampler, (ids,) = SubwordSampler(tokenizer, alpha), tokenizer.encode([line])
    return Counter(tuple(sampler.sample(ids, Random(f"{seed}"))) for seed in range(draws))


@pytest.mark.parametrize("alpha", [0.1, 0.4])
def test_segmentations_are_drawn_as_sentencepiece_draws_them(tokenizer: SentencePieceTokenizer, alpha: float) -> None:
    line, draws = "the old tree", 4_000
    ours = drawn(tokenizer, line, alpha=alpha, draws=draws)
    processor = sentencepiece.SentencePieceProcessor(model_proto=tokenizer.model)
    theirs = Counter(
        tuple(processor.encode(line, enable_sampling=True, nbest_size=-1, alpha=alpha)) for _ in range(draws)
    )
    assert len(ours) > 5
    common = [sequence for sequence in ours.keys() | theirs.keys() if ours[sequence] + theirs[sequence] >= 60]
    # Two samples of a frequency differ by five standard deviations in one of a million cases.
    assert all(abs(ours[found] - theirs[found]) < 5 * (ours[found] + theirs[found]) ** 0.5 for found in common)


def test_the_text_stays(tokenizer: SentencePieceTokenizer) -> None:
    sampler, ids = SubwordSampler(tokenizer, 0.3), tokenizer.encode(LINES)
    new = [sampler.sample(sentence, Random(number)) for number, sentence in enumerate(ids)]
    assert new != ids
    assert tokenizer.decode(new) == LINES


def test_words_with_unknown_characters_and_tags_are_kept(tokenizer: SentencePieceTokenizer) -> None:
    sampler, (ids,) = SubwordSampler(tokenizer, 0.3), tokenizer.encode(["<bt> the 猫 sees trees"])
    tag = tokenizer.tags["<bt>"]
    several = {tuple(sampler.sample(ids, Random(seed))) for seed in range(50)}
    assert len(several) > 5
    assert all(one.count(tag) == ids.count(tag) == 1 and one.count(UNK) == ids.count(UNK) for one in several)


def test_bytes_are_no_tags() -> None:
    assert make_tokenizer("unigram", byte_fallback=True, vocab_size=400).tags.keys() == {"<bt>"}


def test_symbols_that_the_model_was_given_are_never_split(tokenizer: SentencePieceTokenizer) -> None:
    sampler, (ids,) = SubwordSampler(tokenizer, 0.9), tokenizer.encode(["the treecat sees trees"])
    (symbol,) = tokenizer.convert_pieces_to_ids(["treecat"])
    assert all(sampler.sample(ids, Random(seed)).count(symbol) == 1 for seed in range(50))


def test_text_without_spaces_is_segmented_too() -> None:
    """As in Chinese, where a sentence is one word; long enough for a product of probabilities to vanish."""
    tokenizer = make_tokenizer("unigram", [line.replace(" ", "") for line in LINES])
    line = "thelittlecatseestheoldhouse" * 40
    (ids,) = tokenizer.encode([line])
    new = SubwordSampler(tokenizer, 0.3).sample(ids, Random(1))
    assert new != ids
    assert tokenizer.decode([new]) == [line]


@pytest.fixture
def base(tokenizer: SentencePieceTokenizer, tmp_path: Path) -> ParallelDataset:
    ids = tokenizer.encode(LINES * 15)  # two blocks
    TokenizerPair(tokenizer, tokenizer).save(tmp_path / "tokenizers")
    fingerprint = TokenizerPair(tokenizer, tokenizer).fingerprint
    sizes = {"source_vocabulary_size": tokenizer.size, "target_vocabulary_size": tokenizer.size}
    with write_dataset(tmp_path / "base", **sizes, vocabulary_fingerprint=fingerprint) as writer:
        writer.append(*flatten(ids), *flatten(ids))
    return ParallelDataset(tmp_path / "base")


def test_an_epochs_dataset_depends_on_seed_and_epoch_and_no_process(
    tokenizer: SentencePieceTokenizer, base: ParallelDataset, tmp_path: Path
) -> None:
    def epoch(number: int, seed: int) -> ParallelDataset:
        path, pair = tmp_path / f"{number}-{seed}", TokenizerPair(tokenizer, tokenizer)
        resample(base, pair, path, alphas=(0.2, 0.0), max_length=99, seed=seed, epoch=number)
        return ParallelDataset(path)

    first = epoch(0, 1)
    assert len(first) == len(base)
    assert first.fingerprint not in (base.fingerprint, epoch(1, 1).fingerprint, epoch(0, 2).fingerprint)
    assert (first.target_lengths == base.target_lengths).all()
    assert int(first.source_lengths.sum()) > int(base.source_lengths.sum())
    tokenizers, settings = tmp_path / "tokenizers", {"alphas": (0.2, 0.0), "max_length": 99, "seed": 1, "epoch": 0}
    ResamplingProcess(base.directory, tokenizers, tmp_path / "other", **settings, workers=2).wait()
    assert ParallelDataset(tmp_path / "other").fingerprint == first.fingerprint
    resample(base, TokenizerPair.load(tokenizers), tmp_path / "short", **settings | {"max_length": 10})
    short = ParallelDataset(tmp_path / "short").source_lengths
    assert (short[short > 10] == base.source_lengths[short > 10]).all()
    with pytest.raises(
        DataError, match=r"other: data\.subword_regularization: the segmentations cannot be written: .*no"
    ):
        ResamplingProcess(tmp_path / "nowhere", tokenizers, tmp_path / "other", **settings).wait()


def test_a_worker_that_the_system_kills_is_an_error(
    tokenizer: SentencePieceTokenizer, base: ParallelDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def be_killed(sampler: SubwordSampler, ids: Sequence[int], random: Random) -> list[int]:
        os.kill(os.getpid(), signal.SIGKILL)
        return []

    monkeypatch.setattr(SubwordSampler, "sample", be_killed)
    pair, settings = TokenizerPair(tokenizer, tokenizer), {"max_length": 99, "seed": 1, "epoch": 0, "workers": 2}
    with pytest.raises(BrokenProcessPool):
        resample(base, pair, tmp_path / "new", alphas=(0.2, 0.2), **settings)
    assert not (tmp_path / "new").exists()


def test_a_process_whose_training_was_killed_before_it_began_writes_nothing(tmp_path: Path) -> None:
    arguments = json.dumps({"parent": 1 << 30, "dataset": "a", "tokenizers": "b", "directory": str(tmp_path / "c")})
    command = [sys.executable, "-m", "nmt_rela.data.subword_regularization", arguments]
    found = subprocess.run(command, capture_output=True, timeout=60)
    assert (found.returncode, found.stderr) == (1, b"")
    assert list(tmp_path.iterdir()) == []
