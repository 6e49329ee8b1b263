"""Tokenizers: SentencePiece models with fixed special ids, or with a vocabulary beside them that has these ids.

Every stored or translated sentence ends in ``EOS``. ``BOS`` only starts the decoder. ``PAD`` fills batches.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import sentencepiece

from nmt_rela.utils.errors import DataError
from nmt_rela.utils.files import atomic_write, read_json

PAD, UNK, EOS, BOS = 0, 1, 2, 3
#: The first sub-word of a word starts with this character.
WORD_START = "▁"
#: A tag: a word put before source sentences to say something of them, such as ``<2de>``, or ``>>de<<`` in models of
#: Marian. It is one sub-word. ``<0xE4>`` is a byte, by which some models of SentencePiece spell unknown characters.
TAG = r"<(?!0x[0-9A-F]{2}>)[\w-]+>|>>[\w-]+<<"
#: The end of the name of a vocabulary's file, instead of ``.model``.
VOCABULARY = ".vocab.json"
_INVISIBLE = frozenset((PAD, EOS, BOS))


class SentencePieceTokenizer:
    """One SentencePiece model. Its methods only read: threads may share it, and worker processes may unpickle it.

    Args:
        model: the bytes of a model file.
        name: the file's name in messages.
        vocabulary: the sub-words by id where they are not the model's own, as in Marian: the special ones first. What
            it lacks of the model's sub-words becomes UNK. ``>>x<<`` in it, which says what language to translate into,
            is one sub-word at the start of a line.

    Raises:
        DataError: the bytes are no SentencePiece model, or one with other special ids.
    """

    def __init__(self, model: bytes, *, name: str, vocabulary: Sequence[str] | None = None) -> None:
        #: The bytes of the model file.
        self.model = model
        self._vocabulary = None if vocabulary is None else tuple(vocabulary)
        self.size: int
        self.fingerprint: str
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        except RuntimeError as error:  # its text only names a line of SentencePiece's source
            raise DataError(f"{name}: not a SentencePiece model, or a damaged one") from error
        processor = self._processor
        if processor.get_piece_size() == 0:  # as of an empty file
            raise DataError(f"{name}: a SentencePiece model without sub-words")
        self._ids: dict[str, int] = {}
        if self._vocabulary is not None:
            self._ids = {piece: i for i, piece in enumerate(self._vocabulary)}
            if len(self._ids) < len(self._vocabulary) or len(self._vocabulary) <= BOS:
                raise DataError(f"{name}: its vocabulary has a sub-word twice, or no special ones")
            self.size = len(self._vocabulary)
            self.fingerprint = hashlib.sha256(model + json.dumps(self._vocabulary).encode()).hexdigest()
            return
        found = (processor.pad_id(), processor.unk_id(), processor.eos_id(), processor.bos_id())
        if found != (PAD, UNK, EOS, BOS):
            raise DataError(
                f"{name}: special ids pad, unk, eos, bos are {found}; "
                f"accepted: {(PAD, UNK, EOS, BOS)} (train SentencePiece with pad_id=0 unk_id=1 eos_id=2 bos_id=3)"
            )
        self.size = processor.get_piece_size()
        self.fingerprint = hashlib.sha256(model).hexdigest()

    @property
    def has_own_vocabulary(self) -> bool:
        """Whether the ids are those of a vocabulary beside the model."""
        return self._vocabulary is not None

    @property
    def vocabulary(self) -> Sequence[str]:
        """The sub-words by id."""
        return self.convert_ids_to_pieces(range(self.size))

    @cached_property
    def scores(self) -> dict[str, float]:
        """The score of each sub-word that the model learned: its log-probability, or minus the rank of its merge.

        All have a minus sign, also the first rank, which is -0.0. Symbols that the model was given have 0.0.
        """
        processor = self._processor
        scores = {processor.id_to_piece(i): processor.get_score(i) for i in range(processor.get_piece_size())}
        return {piece: score for piece, score in scores.items() if math.copysign(1, score) < 0}

    @property
    def algorithm(self) -> Literal["bpe", "unigram"]:
        """How the model segments. Ranks are whole numbers, log-probabilities are not."""
        return "bpe" if all(score.is_integer() for score in self.scores.values()) else "unigram"

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
        vocabulary, beside = None, path.with_suffix(VOCABULARY)
        if beside.exists():
            vocabulary = read_json(beside)
            if not isinstance(vocabulary, list) or not all(isinstance(piece, str) for piece in vocabulary):
                raise DataError(f"{beside}: expected a list of sub-words")
        return cls(model, name=str(path), vocabulary=vocabulary)

    def save(self, path: Path) -> None:
        """Write the model file atomically, with the very bytes that were loaded, and the vocabulary beside it."""
        with atomic_write(path) as stream:
            stream.write(self.model)
        if self._vocabulary is not None:
            with atomic_write(path.with_suffix(VOCABULARY)) as stream:
                stream.write(json.dumps(self._vocabulary, indent=0).encode("utf-8"))

    def encode(self, lines: Sequence[str], *, threads: int = 1) -> list[list[int]]:
        """Sub-word ids of each line, without EOS. An empty line has none."""
        if self._vocabulary is None:
            ids: list[list[int]] = self._processor.encode(list(lines), out_type=int, num_threads=threads)
            return ids
        split = [self._split_tag(line) for line in lines]
        pieces = self._processor.encode([text for _, text in split], out_type=str, num_threads=threads)
        return [
            [*tag, *(self._ids.get(piece, UNK) for piece in line)] for (tag, _), line in zip(split, pieces, strict=True)
        ]

    def split(self, lines: Sequence[str]) -> list[list[str]]:
        """The sub-words of each line. One that the vocabulary lacks is as the line has it."""
        split = [self._split_tag(line) for line in lines]
        pieces = self._processor.encode([text for _, text in split], out_type=str)
        return [[*self.convert_ids_to_pieces(tag), *line] for (tag, _), line in zip(split, pieces, strict=True)]

    def decode(self, ids: Sequence[Sequence[int]], *, threads: int = 1) -> list[str]:
        """The text of each id sequence, without PAD, EOS and BOS. UNK becomes SentencePiece's ``⁇``."""
        if not ids:  # SentencePiece takes an empty list for one empty sentence
            return []
        visible = [[int(i) for i in sentence if i not in _INVISIBLE] for sentence in ids]
        if self._vocabulary is not None:
            decoded = (self._processor.decode_pieces(self.convert_ids_to_pieces(sentence)) for sentence in visible)
            # A sub-word that this model does not have stays as it is.
            return [line.replace(WORD_START, " ").strip() for line in decoded]
        lines: list[str] = self._processor.decode(visible, out_type=str, num_threads=threads)
        return lines

    def convert_ids_to_pieces(self, ids: Sequence[int]) -> list[str]:
        """The sub-word of each id."""
        if self._vocabulary is not None:
            return [self._vocabulary[i] for i in ids]
        pieces: list[str] = self._processor.id_to_piece([int(i) for i in ids])
        return pieces

    def convert_pieces_to_ids(self, pieces: Sequence[str]) -> list[int]:
        """The id of each sub-word of the vocabulary."""
        if self._vocabulary is not None:
            return [self._ids[piece] for piece in pieces]
        return [self._processor.piece_to_id(piece) for piece in pieces]

    def _split_tag(self, line: str) -> tuple[list[int], str]:
        """The id of a tag before a line, if there is one, and the rest."""
        if line.startswith(">>") and (end := line.find("<<") + 2) > 2 and line[:end] in self._ids:
            return [self._ids[line[:end]]], line[end:]
        return [], line


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
    def have_one_vocabulary(self) -> bool:
        """Whether an id means the same sub-word on both sides."""
        return self.source.vocabulary == self.target.vocabulary

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
