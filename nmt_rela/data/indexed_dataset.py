"""The binary corpus: pairs of sub-word id sequences in memory-mapped files.

A corpus is a directory of five files::

    header.json       format, version, counts, vocabulary sizes and fingerprint, size and SHA-256 of the other files,
                      and, last, the SHA-256 of the header without it
    source.tokens     ids of all sentences, one after another, each ending in EOS: little-endian uint16, or uint32
                      where the vocabulary has more than 65,536 entries
    source.offsets    pairs + 1 little-endian int64: sentence i is tokens[offsets[i]:offsets[i + 1]]
    target.tokens, target.offsets

It appears under its name only when complete, and its bytes depend on nothing but the pairs.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import shutil
from collections.abc import Sequence
from contextlib import ExitStack, closing
from functools import cached_property
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nmt_rela.data.tokenizer import EOS, PAD
from nmt_rela.utils.errors import DataError

FORMAT, VERSION = "nmt_rela binary corpus", 1
_SIDES = ("source", "target")
_CHUNK = 1 << 20
_OFFSET = np.dtype("<i8")


def _token_type(vocabulary_size: int) -> np.dtype[Any]:
    return np.dtype("<u2" if vocabulary_size <= 1 << 16 else "<u4")


class Sentences:
    """One side of a corpus: id sequences in memory-mapped files, each ending in EOS."""

    def __init__(self, stem: Path, *, token_type: np.dtype[Any]) -> None:
        self._offsets = _map(stem.with_suffix(".offsets"), _OFFSET)
        self._tokens = _map(stem.with_suffix(".tokens"), token_type)

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, index: int) -> NDArray[np.integer]:
        return self._tokens[self._offsets[index] : self._offsets[index + 1]]

    @cached_property
    def lengths(self) -> NDArray[np.int32]:
        """Sub-words of each sentence, EOS counted; read-only."""
        lengths = np.empty(len(self), dtype=np.int32)
        for start in range(0, len(self), _CHUNK):
            lengths[start : start + _CHUNK] = np.diff(self._offsets[start : start + _CHUNK + 1])
        lengths.flags.writeable = False
        return lengths

    def padded(self, indices: NDArray[np.integer]) -> NDArray[np.int64]:
        """Chosen sentences as rows filled up with PAD: [sentences, longest], at least one column."""
        begins = self._offsets[indices]
        lengths = self._offsets[np.asarray(indices) + 1] - begins
        columns = np.arange(max(int(lengths.max(initial=1)), 1))
        inside = columns < lengths[:, None]
        rows = np.full(inside.shape, PAD, dtype=np.int64)
        rows[inside] = self._tokens[(begins[:, None] + columns)[inside]]
        return rows


def _map(path: Path, dtype: np.dtype[Any]) -> NDArray[Any]:
    """A read-only memory-mapped file as an array; an empty file, which cannot be mapped, as an empty array."""
    if not path.stat().st_size:
        return np.empty(0, dtype=dtype)
    with path.open("rb") as file:
        return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), dtype=dtype)


class ParallelDataset:
    """Pairs of sentences, memory-mapped: opening is quick and memory holds only what is read."""

    def __init__(self, directory: Path) -> None:
        """Open a corpus; see ``open``."""
        self.directory = directory
        try:
            text = (directory / "header.json").read_bytes()
        except OSError as error:
            raise DataError(f"{directory}: not a binary corpus (header.json: {error.strerror})") from error
        self._header = _read_header(text, directory)
        for name, entry in self._header["files"].items():
            path = directory / name
            found = path.stat().st_size if path.is_file() else None
            if found != entry["bytes"]:
                what = "missing" if found is None else f"{found:,} bytes"
                raise DataError(f"{path}: {what}; {entry['bytes']:,} bytes were written: prepare the data again")
        #: SHA-256 that identifies the corpus: of its header, which holds those of the other files.
        self.fingerprint: str = hashlib.sha256(text).hexdigest()
        self.vocabulary_fingerprint: str = self._header["vocabulary_fingerprint"]
        self.source_vocabulary_size: int = self._header["source"]["vocabulary_size"]
        self.target_vocabulary_size: int = self._header["target"]["vocabulary_size"]
        self.sources, self.targets = (
            Sentences(directory / side, token_type=_token_type(self._header[side]["vocabulary_size"]))
            for side in _SIDES
        )

    @classmethod
    def open(cls, directory: Path) -> ParallelDataset:
        """Open a corpus, checking its header and the sizes of its files (``verify`` reads them through).

        Raises DataError naming the path when anything is missing, of another version or of another size.
        """
        return cls(directory)

    def __len__(self) -> int:
        return len(self.sources)

    @property
    def source_lengths(self) -> NDArray[np.int32]:
        """Sub-words of each source sentence, EOS counted."""
        return self.sources.lengths

    @property
    def target_lengths(self) -> NDArray[np.int32]:
        """Sub-words of each target sentence, EOS counted."""
        return self.targets.lengths

    def source(self, index: int) -> NDArray[np.integer]:
        """Ids of one source sentence with EOS (a view of the file)."""
        return self.sources[index]

    def target(self, index: int) -> NDArray[np.integer]:
        """Ids of one target sentence with EOS (a view of the file)."""
        return self.targets[index]

    def verify(self) -> None:
        """Read every file and compare its SHA-256 with the header's. Raises DataError naming a damaged file."""
        for name, entry in self._header["files"].items():
            path = self.directory / name
            if _sha256(path) != entry["sha256"]:
                raise DataError(f"{path}: damaged, its SHA-256 differs from the header's: prepare the data again")


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def _read_header(text: bytes, directory: Path) -> dict[str, Any]:
    """Parse a header and check its seal: what it says can then be relied on."""
    damaged = DataError(f"{directory / 'header.json'}: damaged header: prepare the data again")
    try:
        header: dict[str, Any] = json.loads(text)
        found = (header["format"], header["version"])
        seal = header.pop("sha256")
    except (ValueError, KeyError, TypeError) as error:
        raise damaged from error
    if found != (FORMAT, VERSION):
        raise DataError(
            f"{directory / 'header.json'}: found format {found[0]!r} version {found[1]!r}; "
            f"accepted: {FORMAT!r} version {VERSION}: prepare the data again"
        )
    if seal != _seal(header):
        raise damaged
    return header


def _seal(header: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(header, sort_keys=True).encode()).hexdigest()


class _SideWriter:
    """Appends sentences of one side to its two files, hashing as it goes."""

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
        inside = np.ones(len(with_eos), dtype=np.bool_)
        inside[ends - 1] = False
        with_eos[inside] = tokens
        self._write(0, with_eos)
        self._write(1, (ends + self.tokens).astype(_OFFSET))
        self.tokens += len(with_eos)

    def finish(self) -> dict[str, dict[str, Any]]:
        """Sync the files and tell what the header says of them."""
        for file in self._files:
            file.flush()
            os.fsync(file.fileno())
        self.close()
        return {
            name: {"bytes": size, "sha256": digest.hexdigest()}
            for name, size, digest in zip(self._names, self._bytes, self._digests, strict=True)
        }

    def close(self) -> None:
        for file in self._files:
            file.close()


class ParallelDatasetWriter:
    """Writes a corpus, to be used in a ``with`` block.

    The files grow in ``<directory>.partial``; at the end of the block they are synced and the directory renamed,
    replacing what was there. When the block ends in an exception nothing remains.
    """

    def __init__(
        self,
        directory: Path,
        *,
        source_vocabulary_size: int,
        target_vocabulary_size: int,
        vocabulary_fingerprint: str,
    ) -> None:
        self._directory = directory
        self._partial = directory.with_name(directory.name + ".partial")
        self._sizes = (source_vocabulary_size, target_vocabulary_size)
        self._vocabulary_fingerprint = vocabulary_fingerprint
        self._pairs = 0
        self._leaving = ExitStack()

    def __enter__(self) -> ParallelDatasetWriter:
        shutil.rmtree(self._partial, ignore_errors=True)
        self._partial.mkdir(parents=True)
        self._leaving.callback(shutil.rmtree, self._partial, ignore_errors=True)
        self._source, self._target = (
            self._leaving.enter_context(closing(_SideWriter(self._partial, side, size)))
            for side, size in zip(_SIDES, self._sizes, strict=True)
        )
        return self

    def append(self, source: Sequence[Sequence[int]], target: Sequence[Sequence[int]]) -> None:
        """Append pairs as SentencePiece gives them, without EOS: the writer adds it to both sides of each."""
        self.append_flat(*_flatten(source), *_flatten(target))

    def append_flat(
        self,
        source_tokens: NDArray[np.integer],
        source_lengths: NDArray[np.integer],
        target_tokens: NDArray[np.integer],
        target_lengths: NDArray[np.integer],
    ) -> None:
        """Append many pairs given as ids one after another and the length of each sentence, all without EOS."""
        if len(source_lengths) != len(target_lengths):
            raise ValueError(f"{len(source_lengths)} source sentences, {len(target_lengths)} target sentences")
        self._source.append(source_tokens, source_lengths)
        self._target.append(target_tokens, target_lengths)
        self._pairs += len(source_lengths)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._leaving:  # A full disk can make even closing fail, and the partial files must go all the same.
            if kind is None:
                self._publish()

    def _publish(self) -> None:
        files = self._source.finish() | self._target.finish()
        header: dict[str, Any] = {
            "format": FORMAT,
            "version": VERSION,
            "pairs": self._pairs,
            "vocabulary_fingerprint": self._vocabulary_fingerprint,
            "source": {"tokens": self._source.tokens, "vocabulary_size": self._sizes[0]},
            "target": {"tokens": self._target.tokens, "vocabulary_size": self._sizes[1]},
            "files": files,
        }
        header["sha256"] = _seal(header)
        with (self._partial / "header.json").open("w", encoding="utf-8") as file:
            file.write(json.dumps(header, indent=2) + "\n")
            file.flush()
            os.fsync(file.fileno())
        _sync_directory(self._partial)
        # A directory that holds files cannot be replaced in one step; a kill between the two renames leaves none.
        old = self._directory.with_name(self._directory.name + ".old")
        shutil.rmtree(old, ignore_errors=True)
        if self._directory.exists():
            os.replace(self._directory, old)
        os.replace(self._partial, self._directory)
        _sync_directory(self._directory.parent)
        shutil.rmtree(old, ignore_errors=True)


def _flatten(sentences: Sequence[Sequence[int]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    lengths = np.fromiter(map(len, sentences), dtype=np.int64, count=len(sentences))
    tokens = np.fromiter(chain.from_iterable(sentences), dtype=np.int64, count=int(lengths.sum()))
    return tokens, lengths


def _sync_directory(directory: Path) -> None:
    """Make renames and new names in a directory survive a power cut."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
