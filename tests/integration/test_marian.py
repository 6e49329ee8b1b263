"""A Marian model imported gives the numbers and words that transformers gives, and its bad folders are refused."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from marian_folder import target_sentences, write_marian
from toy_translator import sentences

from nmt_rela import Translator
from nmt_rela.checkpoints.run_directory import RunDirectory
from nmt_rela.commands import evaluate, export, import_model, train
from nmt_rela.data.data_loader import pad_sequences
from nmt_rela.data.tokenizer import BOS, EOS, PAD
from nmt_rela.models.embedding import sinusoidal_positions
from tests.integration.own_text import own_task

transformers = pytest.importorskip("transformers", reason="needs transformers: pip install -e '.[huggingface]'")
LINES = sentences(200, seed=12, longest=9)
STEPS = 14
STACKS = ("encoder", "decoder")


def imported(folder: Path, output: Path, *arguments: str) -> RunDirectory:
    assert import_model.main([str(folder), "--output", str(output), *arguments]) == 0
    return RunDirectory(output)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("marian") / "opus-mt-de-en"
    write_marian(path)
    return path


@pytest.fixture(scope="module")
def run(folder: Path) -> RunDirectory:
    return imported(folder, folder.parent / "run")


def encoder_of(tokenizer: Any, argument: str) -> dict[str, int]:
    """The vocabulary of one side in transformers."""
    separate = argument == "text_target" and tokenizer.separate_vocabs
    return tokenizer.target_encoder if separate else tokenizer.encoder


def rows_of(run: RunDirectory, tokenizer: Any, start: int) -> torch.Tensor:
    """The id in transformers of each of our target ids; BOS has none of its own and copies ``start``."""
    pieces = run.load_tokenizers().target.convert_ids_to_pieces(range(run.load_tokenizers().target.size))
    ids = encoder_of(tokenizer, "text_target")
    return torch.tensor([start if i == BOS else ids[piece] for i, piece in enumerate(pieces)])


def compare(run: RunDirectory, folder: Path, lines: list[str], *, tokenized: int = 300) -> None:
    """Sub-words, logits, greedy translations."""
    tokenizer = transformers.MarianTokenizer.from_pretrained(folder)
    model = transformers.MarianMTModel.from_pretrained(folder).eval()
    ours, tokenizers = run.load_model(), run.load_tokenizers()

    text = sentences(tokenized, seed=7), target_sentences(tokenized, seed=8)
    strange = ["Ünknöwn çharacters", "a\u00a0b", "", "  two  spaces ", ">>de<< der Hund", ">>xx<<a", "x" * 40, "Ⅳ ﬁ"]
    for side, lines_of_side, argument in (
        (tokenizers.source, [*text[0], *strange], "text"), (tokenizers.target, [*text[1], *strange], "text_target")
    ):  # fmt: skip
        expected = tokenizer(**{argument: lines_of_side})["input_ids"]
        names = {i: piece for piece, i in encoder_of(tokenizer, argument).items()}
        found = [[*side.convert_ids_to_pieces(ids), "</s>"] for ids in side.encode(lines_of_side)]
        for line, mine, theirs in zip(lines_of_side, found, expected, strict=True):
            if line != ">>xx<<a":  # an unknown tag is text here, and lost there
                assert mine == [names[i] for i in theirs], line

    rows = rows_of(run, tokenizer, model.config.decoder_start_token_id)
    source = tokenizer(lines, padding=True, return_tensors="pt")
    source_ids = pad_sequences([[*ids, EOS] for ids in tokenizers.source.encode(lines)])
    targets = [[*ids, EOS] for ids in tokenizers.target.encode(target_sentences(len(lines), seed=3, longest=6))]
    target_ids = pad_sequences(targets)
    with torch.no_grad():
        found = ours.double()(source_ids, ours.shift_right(target_ids))
        expected = model.double()(**source, decoder_input_ids=rows[ours.shift_right(target_ids)]).logits
        model.float()
    mine = [i for i in range(len(rows)) if i != BOS]
    difference = (found[..., mine] - expected[..., rows[mine]])[target_ids != PAD].abs().max()
    assert difference <= 1e-5, difference
    assert (found.softmax(2)[..., BOS] < 1e-12).all()

    never = [[tokenizer.pad_token_id], [tokenizer.unk_token_id]]
    ids = model.generate(**source, num_beams=1, max_new_tokens=STEPS, min_new_tokens=1, bad_words_ids=never)
    # Each of our translations may have STEPS sub-words at least; greedy search does not look ahead.
    translations = Translator.load(run.path, device="cpu").translate(lines, beam_size=1, max_length_offset=STEPS)
    back = {i: piece for piece, i in encoder_of(tokenizer, "text_target").items()}
    for row, translation in zip(ids.tolist(), translations, strict=True):
        theirs = [back[i] for i in row[1:]]
        theirs = theirs[: theirs.index("</s>") + 1] if "</s>" in theirs else theirs
        assert list(translation.hypotheses[0].tokens[:STEPS]) == theirs
    texts = tokenizer.batch_decode(ids, skip_special_tokens=True, use_source_tokenizer=False)
    ours_of = {int(row): i for i, row in enumerate(rows) if i != BOS}
    assert tokenizers.target.decode([[ours_of[i] for i in row] for row in ids.tolist()]) == texts
    assert len(set(texts)) >= 3, "all translations are the same: the test shows less than it should"


def test_a_marian_model_gives_the_numbers_and_words_of_transformers(run: RunDirectory, folder: Path) -> None:
    compare(run, folder, LINES[:30])
    config = run.config()
    assert config.data.languages == ("de", "en")
    assert (config.model.activation, config.model.positions, config.model.tied_embeddings) == ("swish", "marian", "all")


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"activation_function": "relu", "scale_embedding": False, "decoder_layers": 3, "encoder_layers": 1},
        {"activation_function": "gelu", "tie_word_embeddings": False, "model_type": "bpe"},
        {"separate": True},
        {"separate": True, "tie_word_embeddings": False, "activation_function": "silu"},
        {"d_model": 20, "encoder_ffn_dim": 7, "decoder_ffn_dim": 7, "dropout": 0.3, "max_position_embeddings": 40},
        {"decoder_start_token_id": 0},
    ],
    ids=str,
)  # fmt: skip
def test_every_setting_of_marian_models(tmp_path: Path, changes: dict[str, Any]) -> None:
    write_marian(tmp_path / "folder", **changes)
    compare(imported(tmp_path / "folder", tmp_path / "run"), tmp_path / "folder", LINES, tokenized=5000)


def test_origin_and_licence_go_with_an_imported_model(folder: Path, tmp_path: Path) -> None:
    licensed = copied(folder, tmp_path / "opus-mt-de-en")
    (licensed / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n", encoding="utf-8")
    imported(licensed, tmp_path / "run")
    for model, form in (("run", "safetensors"), ("safetensors", "huggingface")):
        command = ["--model", str(tmp_path / model), "--format", form, "--output", str(tmp_path / form)]
        assert export.main(command) == 0
    card = (tmp_path / "huggingface/README.md").read_text(encoding="utf-8")
    assert "\nlicense: cc-by-4.0\n" in card.split("---")[1]
    assert "| imported from | `opus-mt-de-en`, a Marian" in card
    assert "## Training" not in card


def test_an_imported_run_is_exported_again(run: RunDirectory, tmp_path: Path) -> None:
    assert export.main(["--model", str(run.path), "--format", "huggingface", "--output", str(tmp_path / "out")]) == 0
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out", trust_remote_code=True)
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "out", trust_remote_code=True)
    inputs = tokenizer(LINES[:20], padding=True, return_tensors="pt")
    ids = model.generate(**inputs, num_beams=1, max_new_tokens=STEPS)
    translations = Translator.load(run.path, device="cpu").translate(LINES[:20], beam_size=1, max_length_offset=STEPS)
    for row, translation in zip(ids.tolist(), translations, strict=True):
        theirs = [token for token in tokenizer.convert_ids_to_tokens(row[1:]) if token != "<pad>"]
        assert list(translation.hypotheses[0].tokens[:STEPS]) == theirs
    assert tokenizer("der Hund")["input_ids"][:-1] == run.load_tokenizers().source.encode(["der Hund"])[0]


def test_a_published_softmax_model_goes_on_with_another_attention(run: RunDirectory, tmp_path: Path) -> None:
    config = tmp_path / "sparse.yaml"
    config.write_text(
        f"extends: {run.config_file}\nrun_dir: {tmp_path / 'sparse'}\n"
        f"data: {{task: {own_task(tmp_path)}, data_dir: {tmp_path / 'data'}}}\n"
        "model: {attention: {encoder: softmax, decoder: softmax, cross: rela-g}}\n"
        f"training: {{initialize_from: {run.path}, max_updates: 1, update_tokens: 200, validate_every: 1}}\n",
        encoding="utf-8",
    )
    assert train.main(["--config", str(config), "--quiet"]) == 0
    assert evaluate.main(["--model", str(tmp_path / "sparse"), "--quiet", "decoding.beam_size=1"]) == 0
    before, after = run.load_model().state_dict(), RunDirectory(tmp_path / "sparse").load_model().state_dict()
    assert "| started from | opus-mt-de-en, licence: not stated |" in (tmp_path / "sparse/README.md").read_text("utf-8")
    new = {name for name in after if name not in before}
    assert {name.rpartition("output_norm.")[2] for name in new} == {"weight", "gate"}
    assert {name.split(".")[2] for name in new} == {"cross_attention"}
    # Adam's first step is as long as the learning rate, which has only begun to rise.
    assert all(float((after[name] - before[name]).abs().max()) < 1e-4 for name in before)


def refusal(folder: Path, output: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    assert import_model.main([str(folder), "--output", str(output), *arguments]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert not output.exists()
    return message


def copied(folder: Path, to: Path, **settings: Any) -> Path:
    shutil.copytree(folder, to)
    path = to / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | settings), encoding="utf-8")
    return to


class Executed:
    """A pickle that creates a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def test_bad_folders_are_refused(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert "no such directory" in refusal(tmp_path / "nowhere", out, capsys)
    (tmp_path / "empty").mkdir()
    assert "config.json: missing" in refusal(tmp_path / "empty", out, capsys)
    assert "'bart'; accepted: 'marian'" in refusal(copied(folder, tmp_path / "bart", model_type="bart"), out, capsys)
    for name in ("vocab.json", "source.spm", "target.spm", "model.safetensors"):
        broken = copied(folder, tmp_path / f"without {name}")
        (broken / name).unlink()
        message = refusal(broken, out, capsys)
        assert name in message, message
    foreign = copied(folder, tmp_path / "sub-words of another model")
    ids = json.loads((foreign / "vocab.json").read_text("utf-8"))
    others = {piece if piece[0] == "<" else f"{piece}x": i for piece, i in ids.items()}
    (foreign / "vocab.json").write_text(json.dumps(others), encoding="utf-8")
    assert "source.spm: vocab.json has" in refusal(foreign, out, capsys)
    for name in ("target.spm", "model.safetensors", "vocab.json"):
        broken = copied(folder, tmp_path / f"damaged {name}")
        (broken / name).write_bytes((broken / name).read_bytes()[:300])
        assert name in refusal(broken, out, capsys)


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("config.json", {"d_model": 10**12}),
        ("config.json", {"decoder_layers": 10**12, "tie_word_embeddings": "x"}),
        ("config.json", {"activation_function": [], "dropout": "x", "eos_token_id": [0]}),
        ("config.json", {"num_beams": -1}),
        ("tokenizer_config.json", {"unk_token": 1.5}),
        ("vocab.json", {"</s>": 10**12}),
        ("vocab.json", {"</s>": 1}),
    ],
    ids=str,
)
def test_strange_values_are_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], file: str, changes: dict[str, Any]
) -> None:
    strange = copied(folder, tmp_path / "strange")
    content = json.loads((strange / file).read_text("utf-8"))
    (strange / file).write_text(json.dumps({**content, **changes}), encoding="utf-8")
    if "num_beams" in changes:
        (strange / "generation_config.json").unlink()
    refusal(strange, tmp_path / "out", capsys)


def test_files_that_are_not_what_they_seem(
    folder: Path, run: RunDirectory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from safetensors.torch import load_file, save_file

    tensors, out = load_file(folder / "model.safetensors"), tmp_path / "out"
    name = "model.encoder.layers.0.fc1.bias"
    for case, value in (("int8", tensors[name].to(torch.int8)), ("nan", tensors[name] + float("nan"))):
        save_file({**tensors, name: value}, copied(folder, tmp_path / case) / "model.safetensors")
        assert name in refusal(tmp_path / case, out, capsys)
    for file in ("source.spm", "target.spm", "model.safetensors"):
        for case in ("empty", "pipe"):
            bad = copied(folder, tmp_path / f"{case} {file}")
            (bad / file).unlink()
            (bad / file).touch() if case == "empty" else os.mkfifo(bad / file)
            assert file in refusal(bad, out, capsys)
    # A copy of another precision beside the weights is left alone.
    beside = copied(folder, tmp_path / "beside")
    for other in ("fp16", "int8"):
        save_file({key: 0 * value for key, value in tensors.items()}, beside / f"model_{other}.safetensors")
    found = imported(beside, out).load_model().state_dict()
    assert all(torch.equal(found[key], value) for key, value in run.load_model().state_dict().items())


def test_every_reason_is_listed(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    message = refusal(
        copied(
            folder, tmp_path / "odd", decoder_ffn_dim=64, encoder_attention_heads=3, activation_function="gelu_new",
            normalize_before=True, static_position_embeddings=False,
        ), out, capsys,
    )  # fmt: skip
    for reason in (
        "decoder_ffn_dim 64",
        "decoder_attention_heads 4",
        "gelu_new",
        "normalize_before",
        "static_position",
    ):
        assert reason in message
    message = refusal(copied(folder, tmp_path / "wide", d_model=64), out, capsys)
    assert "model.encoder.layers.0.self_attn.q_proj.weight is [32, 32], expected [64, 64]" in message
    assert "more" in message
    message = refusal(copied(folder, tmp_path / "deep", decoder_layers=3), out, capsys)
    assert "model.decoder.layers.2.self_attn.q_proj.weight is missing" in message
    assert "has no place" in refusal(copied(folder, tmp_path / "flat", decoder_layers=1), out, capsys)
    assert "id" in refusal(copied(folder, tmp_path / "ids", eos_token_id=3), out, capsys)
    assert "its own model" in refusal(folder, out, capsys, "model.attention=rela-g")
    nameless = copied(folder, tmp_path / "nameless")
    (nameless / "tokenizer_config.json").unlink()
    assert "data.source_language" in refusal(nameless, out, capsys)
    assert imported(nameless, out, "data.source_language=de", "data.target_language=en").config()


def test_pickles_are_loaded_as_tensors_or_not_at_all(
    folder: Path, run: RunDirectory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from safetensors.torch import load_file

    pickled, evil = copied(folder, tmp_path / "pickled"), copied(folder, tmp_path / "evil")
    for path in (pickled, evil):
        (path / "model.safetensors").unlink()
    tensors = load_file(folder / "model.safetensors")
    # Files of older releases hold positions too.
    positions = {f"model.{stack}.embed_positions.weight": sinusoidal_positions(64, 32, "marian") for stack in STACKS}
    torch.save({name: x + 0.1 for name, x in positions.items()} | tensors, pickled / "pytorch_model.bin")
    assert "other positions" in refusal(pickled, tmp_path / "out", capsys)
    torch.save({name: x.half() for name, x in positions.items()} | tensors, pickled / "pytorch_model.bin")
    again = imported(pickled, tmp_path / "again").load_model().state_dict()
    assert all(torch.equal(again[name], value) for name, value in run.load_model().state_dict().items())
    (evil / "pytorch_model.bin").write_bytes(pickle.dumps(Executed(tmp_path / "executed")))
    assert "not executed" in refusal(evil, tmp_path / "out", capsys)
    torch.save({"x": Executed(tmp_path / "executed")}, evil / "pytorch_model.bin")
    assert "not executed" in refusal(evil, tmp_path / "out", capsys)
    assert not (tmp_path / "executed").exists()
