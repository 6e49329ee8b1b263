"""Indexed dataset of sentence pairs: sub-word ids in memory-mapped files.

A dataset is a directory of five files::

    header.json       format, version, counts, vocabulary sizes and fingerprint, size and SHA-256 of the other files,
                      and, last, the SHA-256 of the header without it
    source.tokens     ids of all sentences, one after another, each ending in EOS: little-endian uint16, or uint32
                      where the vocabulary has more than 65,536 entries
    source.offsets    pairs + 1 little-endian int64: sentence i is tokens[offsets[i]:offsets[i + 1]]
    target.tokens, target.offsets

The directory appears only when it is complete. Its bytes depend on nothing but the pairs.
"""

from __future__ import annotations

import hashlib
import json
import mmap
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nmt_rela.data.tokenizer import EOS, PAD, TokenizerPair
from nmt_rela.utils.errors import DataError
from nmt_rela.utils.files import atomic_directory, sha256_of

FORMAT, VERSION = "nmt_rela binary corpus", 1
_SIDES = ("source", "target")
_CHUNK = 1 << 20
_OFFSET = np.dtype("<i8")


def _token_type(vocabulary_size: int) -> np.dtype[Any]:
    return np.dtype("<u2" if vocabulary_size <= 1 << 16 else "<u4")


class TokenSequences:
    """One side of a dataset: memory-mapped id sequences, each ending in EOS."""

    def __init__(self, stem: Path, *, token_type: np.dtype[Any]) -> None:
        self._offsets = _memory_map(stem.with_suffix(".offsets"), _OFFSET)
        self._tokens = _memory_map(stem.with_suffix(".tokens"), token_type)

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, index: int) -> NDArray[np.integer]:
        """The ids of one sentence, as a view of the file."""
        return self._tokens[self._offsets[index] : self._offsets[index + 1]]

    @cached_property
    def lengths(self) -> NDArray[np.int32]:
        """Sub-words of each sentence, EOS included; read-only."""
        lengths = np.empty(len(self), dtype=np.int32)
        for start in range(0, len(self), _CHUNK):
            lengths[start : start + _CHUNK] = np.diff(self._offsets[start : start + _CHUNK + 1])
        lengths.flags.writeable = False
        return lengths

    def pad(self, indices: NDArray[np.integer]) -> NDArray[np.int64]:
        """The chosen sentences, padded with PAD: [sentences, longest], at least one column."""
        begins = self._offsets[indices]
        lengths = self._offsets[np.asarray(indices) + 1] - begins
        columns = np.arange(max(int(lengths.max(initial=1)), 1))
        is_token = columns < lengths[:, None]  # [sentences, longest]
        rows = np.full(is_token.shape, PAD, dtype=np.int64)
        rows[is_token] = self._tokens[(begins[:, None] + columns)[is_token]]
        return rows


def _memory_map(path: Path, dtype: np.dtype[Any]) -> NDArray[Any]:
    """A read-only file as an array. An empty file, which cannot be mapped, is an empty array."""
    if not path.stat().st_size:
        return np.empty(0, dtype=dtype)
    with path.open("rb") as file:
        return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), dtype=dtype)


class ParallelDataset:
    """Sentence pairs, memory-mapped: opening is fast, and only what is read occupies memory.

    Opening checks the header and the sizes of the files, and that the ids are those of the tokenizers if these are
    given; ``verify`` reads them.

    Raises:
        DataError: a file is missing or has another size, or the version or the vocabulary is another one.
    """

    def __init__(self, directory: Path, tokenizers: TokenizerPair | None = None) -> None:
        self.directory = directory
        try:
            text = (directory / "header.json").read_bytes()
        except OSError as error:
            raise DataError(f"{directory}: not a binary dataset (header.json: {error.strerror})") from error
        self._header = _read_header(text, directory)
        for name, entry in self._header["files"].items():
            path = directory / name
            found = path.stat().st_size if path.is_file() else None
            if found != entry["bytes"]:
                what = "missing" if found is None else f"{found:,} bytes"
                raise DataError(f"{path}: {what}; {entry['bytes']:,} bytes were written: prepare the data again")
        #: SHA-256 of the header, which holds those of the other files: it identifies the dataset.
        self.fingerprint: str = hashlib.sha256(text).hexdigest()
        self.vocabulary_fingerprint: str = self._header["vocabulary_fingerprint"]
        if tokenizers and self.vocabulary_fingerprint != tokenizers.fingerprint:
            raise DataError(
                f"{directory}: its ids are those of another vocabulary than the prepared tokenizers; remove "
                f"{directory.parent} and run nmt-prepare again"
            )
        self.sources, self.targets = (
            TokenSequences(directory / side, token_type=_token_type(self._header[side]["vocabulary_size"]))
            for side in _SIDES
        )

    def __len__(self) -> int:
        return len(self.sources)

    def verify(self) -> None:
        """Read every file and compare its SHA-256 with the header's. Raises DataError, which names a damaged file."""
        for name, entry in self._header["files"].items():
            if sha256_of(self.directory / name) != entry["sha256"]:
                raise DataError(f"{self.directory / name}: damaged: its SHA-256 is not that of header.json")

    @property
    def source_lengths(self) -> NDArray[np.int32]:
        """Sub-words of each source sentence, EOS included."""
        return self.sources.lengths

    @property
    def target_lengths(self) -> NDArray[np.int32]:
        """Sub-words of each target sentence, EOS included."""
        return self.targets.lengths


def _read_header(text: bytes, directory: Path) -> dict[str, Any]:
    """The content of a header whose format, version and checksum are right."""
    damaged = DataError(f"{directory / 'header.json'}: damaged header: prepare the data again")
    try:
        header: dict[str, Any] = json.loads(text)
        found = (header["format"], header["version"])
        checksum = header.pop("sha256")
    except (ValueError, KeyError, TypeError) as error:
        raise damaged from error
    if found != (FORMAT, VERSION):
        raise DataError(
            f"{directory / 'header.json'}: found format {found[0]!r} version {found[1]!r}; "
            f"accepted: {FORMAT!r} version {VERSION}: prepare the data again"
        )
    if checksum != _header_checksum(header):
        raise damaged
    return header


def _header_checksum(header: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(header, sort_keys=True).encode()).hexdigest()


class _SideWriter:
    """Appends sentences of one side to its two files and hashes them."""

    def __init__(self, directory: Path, side: str, vocabulary_size: int) -> None:
        self.vocabulary_size = vocabulary_size
        self.tokens = 0
        self._side = side
        self._type = _token_type(vocabulary_size)
        self._names = (f"{side}.tokens", f"{side}.offsets")
        self._files = [(directory / name).open("wb") for name in self._names]
        self._digests = [hashlib.sha256() for _ in self._names]
        self._bytes = [0, 0]
        self._write(1, np.zeros(1, dtype=_OFFSET))

    def _write(self, file: int, array: NDArray[Any]) -> None:
        data = array.data.cast("B")
        self._files[file].write(data)
        self._digests[file].update(data)
        self._bytes[file] += len(data)

    def append(self, tokens: NDArray[np.integer], lengths: NDArray[np.integer]) -> None:
        if not len(lengths):
            return
        if len(tokens) and not 0 <= int(tokens.min()) <= int(tokens.max()) < self.vocabulary_size:
            found = f"{tokens.min()} to {tokens.max()}"
            raise ValueError(f"{self._side} ids {found}; accepted: 0 to {self.vocabulary_size - 1}")
        ends = np.cumsum(lengths + 1, dtype=np.int64)
        with_eos = np.full(int(ends[-1]), EOS, dtype=self._type)
        is_token = np.ones(len(with_eos), dtype=np.bool_)
        is_token[ends - 1] = False
        with_eos[is_token] = tokens
        self._write(0, with_eos)
        self._write(1, (ends + self.tokens).astype(_OFFSET))
        self.tokens += len(with_eos)

    def files(self) -> dict[str, dict[str, Any]]:
        """Size and checksum of each file, for the header."""
        return {
            name: {"bytes": size, "sha256": digest.hexdigest()}
            for name, size, digest in zip(self._names, self._bytes, self._digests, strict=True)
        }

    def close(self) -> None:
        for file in self._files:
            file.close()


def flatten(ids: Sequence[Sequence[int]]) -> tuple[NDArray[np.uint32], NDArray[np.int32]]:
    """The ids of sentences one after another, and the length of each."""
    lengths = np.fromiter(map(len, ids), dtype=np.int32, count=len(ids))
    return np.fromiter(chain.from_iterable(ids), dtype=np.uint32, count=int(lengths.sum())), lengths


class ParallelDatasetWriter:
    """Appends pairs to a dataset; `write_dataset` makes it."""

    def __init__(self, source: _SideWriter, target: _SideWriter) -> None:
        self._source, self._target = source, target
        self.pairs = 0

    def append(
        self,
        source_tokens: NDArray[np.integer],
        source_lengths: NDArray[np.integer],
        target_tokens: NDArray[np.integer],
        target_lengths: NDArray[np.integer],
    ) -> None:
        """Append pairs: the concatenated ids and the length of each sentence, without EOS, which the writer adds."""
        if len(source_lengths) != len(target_lengths):
            raise ValueError(f"{len(source_lengths)} source sentences, {len(target_lengths)} target sentences")
        self._source.append(source_tokens, source_lengths)
        self._target.append(target_tokens, target_lengths)
        self.pairs += len(source_lengths)


@contextmanager
def write_dataset(
    directory: Path, *, source_vocabulary_size: int, target_vocabulary_size: int, vocabulary_fingerprint: str
) -> Iterator[ParallelDatasetWriter]:
    """A writer of a dataset, which appears at the end of the block and replaces an older one.

    The files grow in ``<directory>.partial``. When the block ends in an exception nothing remains of them.
    """
    with (
        atomic_directory(directory) as partial,
        closing(_SideWriter(partial, "source", source_vocabulary_size)) as source,
        closing(_SideWriter(partial, "target", target_vocabulary_size)) as target,
    ):
        writer = ParallelDatasetWriter(source, target)
        yield writer
        header: dict[str, Any] = {
            "format": FORMAT,
            "version": VERSION,
            "pairs": writer.pairs,
            "vocabulary_fingerprint": vocabulary_fingerprint,
            "source": {"tokens": source.tokens, "vocabulary_size": source_vocabulary_size},
            "target": {"tokens": target.tokens, "vocabulary_size": target_vocabulary_size},
            "files": source.files() | target.files(),
        }
        header["sha256"] = _header_checksum(header)
        (partial / "header.json").write_text(json.dumps(header, indent=2) + "\n", encoding="utf-8")
