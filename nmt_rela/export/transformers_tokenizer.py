"""The tokenizer class of transformers for the SentencePiece models of a run. Exported folders import it by its name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizer

from nmt_rela.config.schema import DataConfig
from nmt_rela.data.normalization import normalization_for
from nmt_rela.data.tokenizer import BOS, EOS, PAD, UNK, SentencePieceTokenizer, TokenizerPair
from nmt_rela.export.transformers_model import FILES, write_module
from nmt_rela.utils.errors import DataError

#: The settings of ``data`` that say how text is normalized.
NORMALIZATION_SETTINGS = ("source_language", "target_language", "normalization", "romanian_diacritics")


class NmtRelaTokenizer(PreTrainedTokenizer):
    """Text to ids that end in EOS, and back: sources by default, targets as ``text_target``; ids are read as targets.

    With one vocabulary per language, ``use_source_tokenizer=True`` makes ``decode`` read source ids. Special tokens in
    a text are text. Text is normalized as the training text was.
    """

    vocab_files_names = {  # noqa: RUF012
        "joint_file": "joint.model", "source_file": "source.model", "target_file": "target.model",
        "joint_vocabulary": "joint.vocab.json", "source_vocabulary": "source.vocab.json",
        "target_vocabulary": "target.vocab.json",
    }  # fmt: skip
    model_input_names = ["input_ids", "attention_mask"]  # noqa: RUF012

    def __init__(
        self,
        joint_file: str | None = None,
        source_file: str | None = None,
        target_file: str | None = None,
        **kwargs: Any,
    ) -> None:
        for name in self.vocab_files_names:  # those beside the models are found there
            kwargs.pop(name, None)
        found = joint_file or source_file or target_file
        if found is None:
            raise DataError("no sub-word models; accepted: a folder with joint.model, or source.model and target.model")
        self.tokenizers = TokenizerPair.load(Path(found).parent)
        settings = {name: kwargs[name] for name in NORMALIZATION_SETTINGS if name in kwargs}
        data = DataConfig(task="-", **{"source_language": "source", "target_language": "target", **settings})
        self._normalize = [normalization_for(language, data) for language in data.languages]
        self._pieces = [tokenizer.vocabulary for tokenizer in self._sides]
        self._ids = [{piece: i for i, piece in enumerate(pieces)} for pieces in self._pieces]
        self._input_side = 0  # 0: source, 1: target
        self._decode_use_source_tokenizer = False  # a name that other tools know
        pad, unk, eos, bos = (self._pieces[1][i] for i in (PAD, UNK, EOS, BOS))
        kwargs = {"clean_up_tokenization_spaces": False, "split_special_tokens": True, **kwargs}
        kwargs |= {"pad_token": pad, "unk_token": unk, "eos_token": eos, "bos_token": bos}
        kwargs.setdefault("auto_map", {"AutoTokenizer": [f"{FILES[NmtRelaTokenizer.__name__]}.NmtRelaTokenizer", None]})
        super().__init__(**kwargs)
        for name in ("is_local", "local_files_only"):  # how it was loaded, which is not to be saved
            self.init_kwargs.pop(name, None)

    @property
    def _sides(self) -> tuple[SentencePieceTokenizer, SentencePieceTokenizer]:
        return self.tokenizers.source, self.tokenizers.target

    @property
    def vocab_size(self) -> int:
        """Sub-words of the side that is encoded."""
        return len(self._pieces[self._input_side])

    def get_vocab(self) -> dict[str, int]:
        """The id of each sub-word of the side that is encoded."""
        return dict(self._ids[self._input_side])

    def _switch_to_input_mode(self) -> None:
        self._input_side = 0

    def _switch_to_target_mode(self) -> None:
        self._input_side = 1

    def _tokenize(self, text: str, **_kwargs: Any) -> list[str]:
        side = self._input_side
        (ids,) = self._sides[side].encode([self._normalize[side](text)])
        return [self._pieces[side][i] for i in ids]

    def _convert_token_to_id(self, token: str) -> int:
        return self._ids[self._input_side].get(token, UNK)

    def _convert_id_to_token(self, index: int) -> str:
        pieces = self._pieces[0 if self._decode_use_source_tokenizer else 1]
        return pieces[index] if 0 <= index < len(pieces) else pieces[UNK]

    def convert_tokens_to_string(self, tokens: Sequence[str]) -> str:
        """The text of sub-words; special tokens stay as they are."""
        side = 0 if self._decode_use_source_tokenizer else 1
        parts: list[str | list[int]] = []
        for token in tokens:
            if token in self.all_special_tokens:
                parts.append(token)
            elif parts and isinstance(parts[-1], list):
                parts[-1].append(self._ids[side].get(token, UNK))
            else:
                parts.append([self._ids[side].get(token, UNK)])
        texts = (part if isinstance(part, str) else self._sides[side].decode([part])[0] for part in parts)
        return " ".join(text for text in texts if text)

    def _decode(self, *args: Any, use_source_tokenizer: bool = False, **kwargs: Any) -> str:
        self._decode_use_source_tokenizer = use_source_tokenizer
        try:  # transformers 4 sets the attribute from the argument, 5 leaves it
            text: str = super()._decode(*args, use_source_tokenizer=use_source_tokenizer, **kwargs)
        finally:
            self._decode_use_source_tokenizer = False
        return text

    def build_inputs_with_special_tokens(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """Ids and EOS."""
        return [*token_ids_0, *(token_ids_1 or ()), EOS]

    def get_special_tokens_mask(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None, already_has_special_tokens: bool = False
    ) -> list[int]:
        """1 at special tokens, 0 elsewhere."""
        ids = (
            token_ids_0
            if already_has_special_tokens
            else self.build_inputs_with_special_tokens(token_ids_0, token_ids_1)
        )
        return [int(i in (PAD, EOS, BOS)) for i in ids]

    def add_tokens(self, new_tokens: Any, special_tokens: bool = False) -> int:
        """Raises DataError for tokens that the vocabulary lacks: SentencePiece would never make them of a text."""
        tokens = [str(token) for token in (new_tokens if isinstance(new_tokens, (list, tuple)) else [new_tokens])]
        if unknown := [token for token in tokens if token not in self._ids[0]]:
            raise DataError(
                f"the vocabulary has no sub-word '{unknown[0]}', and none can be added to a SentencePiece model; "
                "tags are set before training, by 'tag' of a source in the task file"
            )
        added: int = super().add_tokens(new_tokens, special_tokens=special_tokens)
        return added

    def save_vocabulary(self, save_directory: str, filename_prefix: str | None = None) -> tuple[str, ...]:
        """The SentencePiece models, and the file that names this class."""
        directory = Path(save_directory)
        self.tokenizers.save(directory)
        write_module(directory, NmtRelaTokenizer)
        return tuple(str(directory / name) for name in self.vocab_files_names.values() if (directory / name).exists())

    @classmethod
    def register_for_auto_class(cls, auto_class: Any = None) -> None:
        """Nothing: ``save_vocabulary`` writes the file; transformers would copy this module."""
