"""The binary corpus on disk: complete or absent, and damage is found and named."""

from __future__ import annotations

import hashlib
import json
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
from id_sequences import append

from nmt_rela.data.indexed_dataset import ParallelDataset, ParallelDatasetWriter, write_dataset
from nmt_rela.data.tokenizer import EOS
from nmt_rela.utils.errors import DataError

SOURCE = [[5, 6, 7], [], [9]]
TARGET = [[8], [4, 4], []]
FILES = ["header.json", "source.offsets", "source.tokens", "target.offsets", "target.tokens"]


def writer(
    directory: Path, *, source_size: int = 100, target_size: int = 100
) -> AbstractContextManager[ParallelDatasetWriter]:
    return write_dataset(
        directory,
        source_vocabulary_size=source_size,
        target_vocabulary_size=target_size,
        vocabulary_fingerprint="vocabulary",
    )


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    with writer(tmp_path / "corpus") as corpus:
        append(corpus, SOURCE, TARGET)
    return tmp_path / "corpus"


def test_pairs_come_back_with_end_of_sentence(directory: Path) -> None:
    corpus = ParallelDataset(directory)
    assert len(corpus) == 3
    assert [corpus.sources[i].tolist() for i in range(3)] == [[*ids, EOS] for ids in SOURCE]
    assert [corpus.targets[i].tolist() for i in range(3)] == [[*ids, EOS] for ids in TARGET]
    assert corpus.source_lengths.tolist() == [4, 1, 2]
    assert corpus.target_lengths.tolist() == [2, 3, 1]
    assert corpus.vocabulary_fingerprint == "vocabulary"


def test_only_the_corpus_remains(directory: Path) -> None:
    assert [path.name for path in directory.parent.iterdir()] == ["corpus"]
    assert sorted(path.name for path in directory.iterdir()) == FILES


def test_documented_layout_can_be_read_without_us(directory: Path) -> None:
    header = json.loads((directory / "header.json").read_text(encoding="utf-8"))
    offsets = np.fromfile(directory / "source.offsets", dtype="<i8")
    tokens = np.fromfile(directory / "source.tokens", dtype="<u2")
    assert (header["format"], header["version"], header["pairs"]) == ("nmt_rela binary corpus", 1, 3)
    assert offsets.tolist() == [0, 4, 5, 7]
    assert tokens.tolist() == [5, 6, 7, EOS, EOS, 9, EOS]
    for name, entry in header["files"].items():
        data = (directory / name).read_bytes()
        assert entry == {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def test_large_vocabularies_use_wider_tokens(tmp_path: Path) -> None:
    with writer(tmp_path / "corpus", source_size=65_536, target_size=65_537) as corpus:
        append(corpus, [[65_535]], [[65_536]])
    opened = ParallelDataset(tmp_path / "corpus")
    assert (opened.sources[0].tolist(), opened.targets[0].tolist()) == ([65_535, EOS], [65_536, EOS])
    assert (opened.sources[0].itemsize, opened.targets[0].itemsize) == (2, 4)


def test_same_pairs_same_bytes_however_they_arrive(directory: Path, tmp_path: Path) -> None:
    with writer(tmp_path / "singly") as corpus:
        for source, target in zip(SOURCE, TARGET, strict=True):
            append(corpus, [source], [target])
            append(corpus, [], [])
    for name in FILES:
        assert (tmp_path / "singly" / name).read_bytes() == (directory / name).read_bytes()
    assert ParallelDataset(tmp_path / "singly").fingerprint == ParallelDataset(directory).fingerprint


def test_other_pairs_have_another_fingerprint(directory: Path, tmp_path: Path) -> None:
    with writer(tmp_path / "other") as corpus:
        append(corpus, [[5, 6, 7], [], [8]], TARGET)
    assert ParallelDataset(tmp_path / "other").fingerprint != ParallelDataset(directory).fingerprint


def test_empty_corpus_can_be_opened(tmp_path: Path) -> None:
    with writer(tmp_path / "corpus"):
        pass
    corpus = ParallelDataset(tmp_path / "corpus")
    assert len(corpus) == 0
    assert len(corpus.source_lengths) == 0


def test_failed_block_leaves_the_old_corpus(directory: Path) -> None:
    before = ParallelDataset(directory).fingerprint

    def fail() -> None:
        with writer(directory) as corpus:
            append(corpus, [[4]], [[4]])
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        fail()
    assert [path.name for path in directory.parent.iterdir()] == ["corpus"]
    assert ParallelDataset(directory).fingerprint == before


def test_remains_of_a_kill_are_replaced(directory: Path) -> None:
    for suffix in (".partial", ".replaced"):
        remains = directory.with_name(directory.name + suffix)
        remains.mkdir()
        (remains / "source.tokens").write_bytes(b"half")
    with writer(directory) as corpus:
        append(corpus, [[4]], [[4]])
    assert len(ParallelDataset(directory)) == 1
    assert [path.name for path in directory.parent.iterdir()] == ["corpus"]


def test_ids_outside_the_vocabulary_are_an_internal_error(tmp_path: Path) -> None:
    with writer(tmp_path / "corpus") as corpus:
        with pytest.raises(ValueError, match="source ids 5 to 100; accepted: 0 to 99"):
            append(corpus, [[5, 100]], [[5]])
        with pytest.raises(ValueError, match="target ids -1 to 5"):
            append(corpus, [[5]], [[5, -1]])


def test_unequal_sides_are_an_internal_error(tmp_path: Path) -> None:
    with writer(tmp_path / "corpus") as corpus, pytest.raises(ValueError, match="2 source sentences, 1 target"):
        append(corpus, [[5], [6]], [[5]])


def test_missing_corpus(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nothing: not a binary dataset \(header\.json: No such file"):
        ParallelDataset(tmp_path / "nothing")


@pytest.mark.parametrize("name", FILES[1:])
def test_missing_and_cut_files_are_found_at_opening(directory: Path, name: str) -> None:
    path = directory / name
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=rf"{name}: .* bytes were written: prepare the data again"):
        ParallelDataset(directory)
    path.unlink()
    with pytest.raises(DataError, match=rf"{name}: missing"):
        ParallelDataset(directory)


def test_any_flipped_bit_in_the_header_is_found_or_harmless(directory: Path) -> None:
    path = directory / "header.json"
    original = path.read_bytes()
    for position in range(len(original)):
        data = bytearray(original)
        data[position] ^= 1 << position % 8
        with path.open("r+b") as file:  # In place: emptying the file first makes some file systems wait for the disk.
            file.write(data)
        try:
            corpus = ParallelDataset(directory)
        except DataError:
            continue
        # What remains is white space turned into other white space.
        assert json.loads(data) == json.loads(original)
        assert len(corpus) == 3


def test_other_version_is_named(directory: Path) -> None:
    path = directory / "header.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"version": 1', '"version": 7'), encoding="utf-8")
    with pytest.raises(DataError, match=r"header\.json: found format 'nmt_rela binary corpus' version 7; accepted"):
        ParallelDataset(directory)


@pytest.mark.parametrize("text", ["", "[]", "null", "{}", '{"format": 1, "version": 2}', "\x00", "1e999"])
def test_header_of_another_kind(directory: Path, text: str) -> None:
    (directory / "header.json").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match="damaged header"):
        ParallelDataset(directory)
