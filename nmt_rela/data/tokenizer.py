"""Sub-word vocabularies: SentencePiece models with fixed special ids.

Every stored or translated sentence ends in ``EOS``; ``BOS`` only starts the decoder; ``PAD`` fills batches.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import sentencepiece

from nmt_rela.utils.errors import DataError

PAD, UNK, EOS, BOS = 0, 1, 2, 3
_INVISIBLE = frozenset((PAD, EOS, BOS))


class Vocabulary:
    """One SentencePiece model. Methods only read, so threads may share it; it can be pickled for worker processes."""

    def __init__(self, model: bytes, *, name: str) -> None:
        """Take the bytes of a model file; ``name`` is the place that errors point at.

        Raises DataError for bytes that are no SentencePiece model, or one with other special ids than ours.
        """
        self._model = model
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        except RuntimeError as error:  # Its text names a line of SentencePiece's source, which helps nobody.
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

    @classmethod
    def load(cls, path: Path) -> Vocabulary:
        """Read a model file. Raises DataError naming the path when it is missing, damaged or of another kind."""
        try:
            model = path.read_bytes()
        except OSError as error:
            raise DataError(f"{path}: cannot read the vocabulary ({error.strerror})") from error
        return cls(model, name=str(path))

    def save(self, path: Path) -> None:
        """Write the model file, whole or not at all; its bytes, and so its fingerprint, are those that were loaded."""
        partial = path.with_name(path.name + ".partial")
        with partial.open("wb") as file:
            file.write(self._model)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)

    def encode(self, lines: Sequence[str], *, threads: int = 1) -> list[list[int]]:
        """Sub-word ids of each line, without EOS; an empty line has none."""
        ids: list[list[int]] = self._processor.encode(list(lines), out_type=int, num_threads=threads)
        return ids

    def decode(self, ids: Sequence[Sequence[int]], *, threads: int = 1) -> list[str]:
        """Plain text of each id sequence. PAD, EOS and BOS leave no trace; UNK shows as SentencePiece's ``⁇``."""
        if not ids:  # SentencePiece takes an empty list for one empty sentence.
            return []
        visible = [[int(i) for i in sentence if i not in _INVISIBLE] for sentence in ids]
        lines: list[str] = self._processor.decode(visible, out_type=str, num_threads=threads)
        return lines

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """The sub-word behind each id; a word's first sub-word starts with ``▁``."""
        pieces: list[str] = self._processor.id_to_piece([int(i) for i in ids])
        return pieces


@dataclass(frozen=True, slots=True)
class TokenizerPair:
    """The vocabularies of both sides."""

    source: Vocabulary
    target: Vocabulary

    @property
    def joint(self) -> bool:
        """Whether both sides have the same model."""
        return self.source.fingerprint == self.target.fingerprint

    @property
    def fingerprint(self) -> str:
        """SHA-256 over both models' fingerprints: what binary data and checkpoints must agree on."""
        return hashlib.sha256(f"{self.source.fingerprint} {self.target.fingerprint}".encode()).hexdigest()

    @classmethod
    def load(cls, directory: Path) -> TokenizerPair:
        """Read ``joint.model``, or ``source.model`` and ``target.model``. Raises DataError when neither is there."""
        if (directory / "joint.model").is_file():
            joint = Vocabulary.load(directory / "joint.model")
            return cls(joint, joint)
        if not (directory / "source.model").is_file() and not (directory / "target.model").is_file():
            raise DataError(f"{directory}: no vocabulary; accepted: joint.model, or source.model and target.model")
        return cls(Vocabulary.load(directory / "source.model"), Vocabulary.load(directory / "target.model"))

    def save(self, directory: Path) -> None:
        """Write the model files into a directory, made where it is missing."""
        directory.mkdir(parents=True, exist_ok=True)
        if self.joint:
            self.source.save(directory / "joint.model")
        else:
            self.source.save(directory / "source.model")
            self.target.save(directory / "target.model")
