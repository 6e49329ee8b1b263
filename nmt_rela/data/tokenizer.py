"""Tokenizers: SentencePiece models with fixed special ids.

Every stored or translated sentence ends in ``EOS``. ``BOS`` only starts the decoder. ``PAD`` fills batches.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import sentencepiece

from nmt_rela.utils.errors import DataError
from nmt_rela.utils.files import atomic_write

PAD, UNK, EOS, BOS = 0, 1, 2, 3
#: The first sub-word of a word starts with this character.
WORD_START = "▁"
#: A tag: a word put before source sentences to say something of them, such as ``<2de>``. It is one sub-word.
TAG = r"<[\w-]+>"
_INVISIBLE = frozenset((PAD, EOS, BOS))
#: SentencePiece has one seed for the whole process.
_SAMPLING = threading.Lock()


class SentencePieceTokenizer:
    """One SentencePiece model. Its methods only read: threads may share it, and worker processes may unpickle it.

    Args:
        model: the bytes of a model file.
        name: the file's name in messages.

    Raises:
        DataError: the bytes are no SentencePiece model, or one with other special ids.
    """

    def __init__(self, model: bytes, *, name: str) -> None:
        self._model = model
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        except RuntimeError as error:  # its text only names a line of SentencePiece's source
            raise DataError(f"{name}: not a SentencePiece model, or a damaged one") from error
        processor = self._processor
        found = (processor.pad_id(), processor.unk_id(), processor.eos_id(), processor.bos_id())
        if found != (PAD, UNK, EOS, BOS):
            raise DataError(
                f"{name}: special ids pad, unk, eos, bos are {found}; "
                f"accepted: {(PAD, UNK, EOS, BOS)} (train SentencePiece with pad_id=0 unk_id=1 eos_id=2 bos_id=3)"
            )
        self.size: int = processor.get_piece_size()
        self.fingerprint: str = hashlib.sha256(model).hexdigest()

    @cached_property
    def tags(self) -> dict[str, int]:
        """The tags among the sub-words, and their ids."""
        pieces = self.convert_ids_to_pieces(range(BOS + 1, self.size))
        return {piece: i for i, piece in enumerate(pieces, start=BOS + 1) if re.fullmatch(TAG, piece)}

    @classmethod
    def load(cls, path: Path) -> SentencePieceTokenizer:
        """Read a model file. Raises DataError where it is missing, damaged or has other special ids."""
        try:
            model = path.read_bytes()
        except OSError as error:
            raise DataError(f"{path}: cannot read the tokenizer ({error.strerror})") from error
        return cls(model, name=str(path))

    def save(self, path: Path) -> None:
        """Write the model file atomically, with the very bytes that were loaded."""
        with atomic_write(path) as stream:
            stream.write(self._model)

    def encode(self, lines: Sequence[str], *, threads: int = 1) -> list[list[int]]:
        """Sub-word ids of each line, without EOS. An empty line has none."""
        ids: list[list[int]] = self._processor.encode(list(lines), out_type=int, num_threads=threads)
        return ids

    def sample(self, lines: Sequence[str], *, alpha: float, seed: int) -> list[list[int]]:
        """Sub-word ids of each line by a segmentation drawn at random, without EOS; the same for the same ``seed``.

        ``alpha`` is explained in ``data/subword_regularization.py``.
        """
        with _SAMPLING:
            # A call starts a thread, whose generator starts from the seed.
            sentencepiece.set_random_generator_seed(seed)
            ids: list[list[int]] = self._processor.encode(
                list(lines), out_type=int, enable_sampling=True, nbest_size=-1, alpha=alpha, num_threads=1
            )
        return ids

    def decode(self, ids: Sequence[Sequence[int]], *, threads: int = 1) -> list[str]:
        """The text of each id sequence, without PAD, EOS and BOS. UNK becomes SentencePiece's ``⁇``."""
        if not ids:  # SentencePiece takes an empty list for one empty sentence
            return []
        visible = [[int(i) for i in sentence if i not in _INVISIBLE] for sentence in ids]
        lines: list[str] = self._processor.decode(visible, out_type=str, num_threads=threads)
        return lines

    def convert_ids_to_pieces(self, ids: Sequence[int]) -> list[str]:
        """The sub-word of each id."""
        pieces: list[str] = self._processor.id_to_piece([int(i) for i in ids])
        return pieces


@dataclass(frozen=True, slots=True)
class TokenizerPair:
    """The tokenizers of both sides."""

    source: SentencePieceTokenizer
    target: SentencePieceTokenizer

    @property
    def is_shared(self) -> bool:
        """Whether both sides have the same model."""
        return self.source.fingerprint == self.target.fingerprint

    @property
    def fingerprint(self) -> str:
        """SHA-256 over both models' fingerprints. Binary data and checkpoints must agree on it."""
        return hashlib.sha256(f"{self.source.fingerprint} {self.target.fingerprint}".encode()).hexdigest()

    @classmethod
    def load(cls, directory: Path) -> TokenizerPair:
        """Read ``joint.model``, or ``source.model`` and ``target.model``. Raises DataError when neither is there."""
        if (directory / "joint.model").is_file():
            joint = SentencePieceTokenizer.load(directory / "joint.model")
            return cls(joint, joint)
        if not (directory / "source.model").is_file() and not (directory / "target.model").is_file():
            raise DataError(f"{directory}: no tokenizer; accepted: joint.model, or source.model and target.model")
        source, target = (SentencePieceTokenizer.load(directory / f"{side}.model") for side in ("source", "target"))
        return cls(source, target)

    def save(self, directory: Path) -> None:
        """Write the model files into a directory, which is created if necessary."""
        if self.is_shared:
            self.source.save(directory / "joint.model")
        else:
            self.source.save(directory / "source.model")
            self.target.save(directory / "target.model")
