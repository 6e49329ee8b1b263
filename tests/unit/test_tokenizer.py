"""TokenizerPair: what is encoded comes back, and models that cannot serve are refused by name."""

from __future__ import annotations

import io
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sentencepiece

from nmt_rela.data.tokenizer import BOS, EOS, PAD, UNK, SentencePieceTokenizer, TokenizerPair
from nmt_rela.utils.errors import DataError

LINES = [
    "the old baker gives the small child a red apple",
    "das Kind liest ein Buch über die Stadt",
    "we see that the teacher writes many long letters",
    "schöne Häuser stehen an der Straße",
]


def train(*, size: int = 80, specials: tuple[int, int, int, int] = (PAD, UNK, EOS, BOS)) -> bytes:
    model = io.BytesIO()
    pad, unknown, end, begin = specials
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(LINES * 5),
        model_writer=model,
        vocab_size=size,
        model_type="bpe",
        character_coverage=1.0,
        pad_id=pad,
        unk_id=unknown,
        eos_id=end,
        bos_id=begin,
        minloglevel=2,
    )
    return model.getvalue()


@pytest.fixture(scope="module")
def tokenizer() -> SentencePieceTokenizer:
    return SentencePieceTokenizer(train(), name="test.model")


@pytest.fixture(scope="module")
def other() -> SentencePieceTokenizer:
    return SentencePieceTokenizer(train(size=70), name="other.model")


def test_decoding_inverts_encoding(tokenizer: SentencePieceTokenizer) -> None:
    ids = tokenizer.encode(LINES)
    assert tokenizer.decode(ids) == LINES
    assert all(not {PAD, UNK, EOS, BOS} & set(sentence) for sentence in ids)
    assert tokenizer.size == 80


def test_empty_input_stays_empty(tokenizer: SentencePieceTokenizer) -> None:
    assert tokenizer.encode([]) == []
    assert tokenizer.encode(["", "the", ""])[::2] == [[], []]
    assert tokenizer.decode([]) == []
    assert tokenizer.decode([[], [EOS]]) == ["", ""]
    assert tokenizer.convert_ids_to_pieces([]) == []


def test_special_tokens_are_not_decoded_but_unknown_is(tokenizer: SentencePieceTokenizer) -> None:
    (ids,) = tokenizer.encode(["the child"])
    assert tokenizer.decode([[BOS, *ids, EOS, PAD, PAD]]) == ["the child"]
    (unknown,) = tokenizer.encode(["the 猫"])
    assert UNK in unknown
    assert "⁇" in tokenizer.decode([unknown])[0]


def test_pieces_join_to_the_text(tokenizer: SentencePieceTokenizer) -> None:
    (ids,) = tokenizer.encode(["the old baker"])
    assert "".join(tokenizer.convert_ids_to_pieces(ids)).replace("▁", " ") == " the old baker"


def test_line_separators_inside_a_line_do_not_split_it(tokenizer: SentencePieceTokenizer) -> None:
    assert len(tokenizer.encode(["the\u2028child\x85reads\x0ba\x0cbook\x00"])) == 1


def test_threads_change_nothing(tokenizer: SentencePieceTokenizer) -> None:
    lines = LINES * 50
    expected = tokenizer.encode(lines)
    assert tokenizer.encode(lines, threads=3) == expected
    with ThreadPoolExecutor(4) as pool:
        assert all(found == expected for found in pool.map(tokenizer.encode, [lines] * 8))


def test_worker_processes_can_have_a_copy(tokenizer: SentencePieceTokenizer) -> None:
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert copy.encode(LINES) == tokenizer.encode(LINES)
    assert copy.fingerprint == tokenizer.fingerprint


def test_saved_and_loaded_bytes_are_the_same(tokenizer: SentencePieceTokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / "a.model")
    loaded = SentencePieceTokenizer.load(tmp_path / "a.model")
    loaded.save(tmp_path / "b.model")
    assert loaded.fingerprint == tokenizer.fingerprint
    assert (tmp_path / "a.model").read_bytes() == (tmp_path / "b.model").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.model", "b.model"]


def test_missing_model_names_the_path(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no\.model: cannot read the tokenizer"):
        SentencePieceTokenizer.load(tmp_path / "no.model")


@pytest.mark.parametrize("damage", [lambda model: b"", lambda model: b"not a model", lambda model: model[:-20]])
def test_damaged_model_names_the_path(damage: Any, tokenizer: SentencePieceTokenizer, tmp_path: Path) -> None:
    path = tmp_path / "bad.model"
    tokenizer.save(path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=r"bad\.model: "):
        SentencePieceTokenizer.load(path)


def test_other_special_ids_are_refused() -> None:
    model = train(specials=(3, 0, 2, 1))
    with pytest.raises(DataError, match=r"x\.model: special ids .*\(3, 0, 2, 1\); accepted: \(0, 1, 2, 3\)"):
        SentencePieceTokenizer(model, name="x.model")


def test_joint_and_separate_vocabularies_come_back(
    tokenizer: SentencePieceTokenizer, other: SentencePieceTokenizer, tmp_path: Path
) -> None:
    joint, separate = TokenizerPair(tokenizer, tokenizer), TokenizerPair(tokenizer, other)
    assert joint.is_shared
    assert not separate.is_shared
    for name, tokenizers in (("joint", joint), ("separate", separate)):
        tokenizers.save(tmp_path / name)
        loaded = TokenizerPair.load(tmp_path / name)
        assert loaded.is_shared == tokenizers.is_shared
        assert loaded.fingerprint == tokenizers.fingerprint
        assert loaded.target.fingerprint == tokenizers.target.fingerprint
    assert [path.name for path in (tmp_path / "joint").iterdir()] == ["joint.model"]


def test_fingerprint_tells_sides_apart(tokenizer: SentencePieceTokenizer, other: SentencePieceTokenizer) -> None:
    pairs = [(tokenizer, tokenizer), (tokenizer, other), (other, tokenizer), (other, other)]
    assert len({TokenizerPair(*pair).fingerprint for pair in pairs}) == 4


def test_a_missing_tokenizer_is_named(tokenizer: SentencePieceTokenizer, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no tokenizer; accepted: joint\.model, or source\.model and target\.model"):
        TokenizerPair.load(tmp_path)
    tokenizer.save(tmp_path / "source.model")
    with pytest.raises(DataError, match=r"target\.model: cannot read"):
        TokenizerPair.load(tmp_path)


def test_a_vocabulary_beside_a_model_has_its_own_ids(tmp_path: Path) -> None:
    model = train(specials=(-1, 0, 2, 1))  # as those of Marian
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    pieces = [processor.id_to_piece(i) for i in range(3, processor.get_piece_size())]
    split = processor.encode(LINES, out_type=str)
    dropped = min(set(split[1]) - {piece for line in (split[0], *split[2:]) for piece in line})
    vocabulary = ["<pad>", "<unk>", "</s>", "<s>", ">>de<<", *reversed([p for p in pieces if p != dropped])]
    SentencePieceTokenizer(model, name="marian", vocabulary=vocabulary).save(tmp_path / "source.model")
    tokenizer = SentencePieceTokenizer.load(tmp_path / "source.model")
    assert tokenizer.size == len(vocabulary)
    assert tokenizer.tags == {">>de<<": 4}
    ids = tokenizer.encode([*LINES, f">>de<< {LINES[0]}", f">>en<< {LINES[0]}", ""])
    assert tokenizer.convert_ids_to_pieces(ids[0]) == split[0]
    assert ids[:4] == [[vocabulary.index(piece) if piece in vocabulary else UNK for piece in line] for line in split]
    assert [UNK in line for line in ids[:4]] == [False, True, False, False]
    assert ids[4] == [4, *ids[0]]
    assert 4 not in ids[5]
    assert ids[6] == []
    known = [line for line, row in zip(LINES, ids, strict=False) if UNK not in row]
    assert tokenizer.decode([[BOS, *row, EOS, PAD] for row in tokenizer.encode(known)]) == known
    assert pickle.loads(pickle.dumps(tokenizer)).encode(LINES) == ids[:4]
    changed = SentencePieceTokenizer(model, name="marian", vocabulary=[*vocabulary[:-2], *vocabulary[:-3:-1]])
    assert changed.fingerprint != tokenizer.fingerprint
    (tmp_path / "source.vocab.json").write_text("{}", encoding="utf-8")
    with pytest.raises(DataError, match=r"source\.vocab\.json"):
        SentencePieceTokenizer.load(tmp_path / "source.model")
