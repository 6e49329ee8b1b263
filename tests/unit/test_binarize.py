"""Text becomes the ids of its lines, whatever the blocks it is cut into and the threads that encode them."""

from __future__ import annotations

from pathlib import Path

import pytest

from nmt_rela.data.indexed_dataset import ParallelDataset
from nmt_rela.data.tokenizer import EOS, TokenizerPair
from nmt_rela.preparation.binarize import LengthFilter, binarize
from nmt_rela.preparation.tokenizer_training import train_sentencepiece

LINES = [f"zeile {number} mit {'wort ' * (number % 9)}und ende" for number in range(240)]
ODD = ["a\u2028b", "\x0c", "\x00", "ﬁ ＡＢ", "x" * 900]


@pytest.fixture(scope="module")
def vocabularies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("subwords")
    vocabulary = train_sentencepiece(
        iter(LINES), algorithm="bpe", size=60, character_coverage=1.0, normalization="nmt_nfkc"
    )
    TokenizerPair(vocabulary, vocabulary).save(directory)
    return directory


def corpus_of(
    directory: Path,
    vocabularies: Path,
    pairs: list[tuple[str, str]],
    *,
    length_filter: LengthFilter,
    workers: int,
    ends: list[int],
    block_bytes: int,
) -> tuple[ParallelDataset, dict[str, list[int]]]:
    for name, lines in zip("st", zip(*pairs, strict=True), strict=True):
        (directory / name).write_bytes("".join(f"{line}\n" for line in lines).encode("utf-8"))
    outcomes = binarize(
        *(directory / "s", directory / "t", vocabularies, directory / "corpus"),
        length_filter=length_filter, ends=ends, workers=workers, title="encoding", block_bytes=block_bytes,
    )  # fmt: skip
    return ParallelDataset(directory / "corpus"), {name: counts.tolist() for name, counts in outcomes.items()}


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("block", [1, 500, 1 << 20])
def test_ids_are_those_of_the_lines_one_by_one(tmp_path: Path, vocabularies: Path, workers: int, block: int) -> None:
    lines = [*LINES[:100], *ODD, *LINES[100:]]
    pairs = list(zip(lines, reversed(lines), strict=True))
    length_filter = LengthFilter(max_length=0, on_overlength="keep")
    corpus, _ = corpus_of(
        tmp_path,
        vocabularies,
        pairs,
        length_filter=length_filter,
        workers=workers,
        ends=[len(lines)],
        block_bytes=block,
    )
    vocabulary = TokenizerPair.load(vocabularies).source
    assert len(corpus) == len(lines)
    for index, line in enumerate(lines):
        (ids,) = vocabulary.encode([line])
        assert corpus.sources[index].tolist() == [*ids, EOS]
        assert corpus.targets[len(lines) - 1 - index].tolist() == [*ids, EOS]


@pytest.mark.parametrize("workers", [1, 2])
def test_outcomes_are_counted_by_source(tmp_path: Path, vocabularies: Path, workers: int) -> None:
    short, long = ("kurz", "wort"), "wort " * 40
    first = [*[short] * 10, (long, "kurz")]
    third = [*[short] * 5, ("\x0c", "kurz"), ("kurz", long), short]
    for way, fate, pairs in (("drop", "overlength", 16), ("truncate", "truncated", 18)):
        corpus, outcomes = corpus_of(
            *(tmp_path, vocabularies, first + third),
            length_filter=LengthFilter(max_length=20, on_overlength=way),  # type: ignore[arg-type]
            workers=workers,
            ends=[11, 11, 19],
            block_bytes=60,
        )
        assert outcomes == {"overlength": [0] * 3, "truncated": [0] * 3, fate: [1, 0, 1], "empty": [0, 0, 1]}
        assert len(corpus) == pairs
        longest = max(int(corpus.source_lengths.max()), int(corpus.target_lengths.max()))
        assert (longest == 20) == (way == "truncate")
