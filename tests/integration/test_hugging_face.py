"""A folder for transformers gives the numbers and words of the run, and does what its other models do."""

from __future__ import annotations

import copy
import json
import pickle
import re
import runpy
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_translator import sentences, separate_tokenizers, varied_run

from nmt_rela import Translator
from nmt_rela.attention.variants import ATTENTION_VARIANTS
from nmt_rela.checkpoints.run_directory import RunDirectory
from nmt_rela.commands import export
from nmt_rela.data.data_loader import pad_sequences
from nmt_rela.data.tokenizer import BOS, EOS, PAD
from nmt_rela.models.attention_capture import capture_attention
from nmt_rela.utils.errors import CheckpointError, ConfigError, DataError
from tests.integration.documentation import REPOSITORY, blocks_of

transformers = pytest.importorskip(
    "transformers", reason="transformers is not installed: pip install -e '.[huggingface]'"
)
LINES = sentences(200, seed=12, longest=5)
MIXED = {"encoder": "softmax", "decoder": "entmax15", "cross": "rela-g"}


def exported(run: RunDirectory, output: Path, *arguments: str) -> Path:
    command = ["--model", str(run.path), "--format", "huggingface", "--output", str(output), *arguments]
    assert export.main(command) == 0
    return output


def load(folder: Path) -> tuple[Any, Any]:
    """Model and tokenizer, as a user loads them."""
    return (
        transformers.AutoModelForSeq2SeqLM.from_pretrained(folder, trust_remote_code=True),
        transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=True),
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    return varied_run(tmp_path_factory.mktemp("runs") / "run", attention="rela-g", tied_embeddings="target")


@pytest.fixture(scope="module")
def folder(run: RunDirectory) -> Path:
    return exported(run, run.path.parent / "out")


@pytest.fixture(scope="module")
def loaded(folder: Path) -> tuple[Any, Any]:
    return load(folder)


def compare(run: RunDirectory, folder: Path, lines: list[str]) -> None:
    """Logits, loss, greedy and beam translations of lines."""
    model, tokenizer = load(folder)
    ours, translator = run.load_model(), Translator.load(run.path, device="cpu")
    source, target = run.load_tokenizers().source, run.load_tokenizers().target

    batch = tokenizer(lines, text_target=lines[::-1], padding=True, return_tensors="pt")
    source_ids = pad_sequences([[*ids, EOS] for ids in source.encode(lines)])
    target_ids = pad_sequences([[*ids, EOS] for ids in target.encode(lines[::-1])])
    assert torch.equal(batch["input_ids"], source_ids)
    assert torch.equal(batch["labels"], target_ids)
    labels = target_ids.masked_fill(target_ids == PAD, -100)
    with torch.no_grad():
        expected = ours(source_ids, ours.shift_right(target_ids))
        found = model(batch["input_ids"], batch["attention_mask"], labels=labels)
    assert (found.logits - expected)[target_ids != PAD].abs().max() <= 1e-5
    nll = -expected.log_softmax(2).gather(2, target_ids.unsqueeze(2)).squeeze(2)[target_ids != PAD]
    assert found.loss.item() == pytest.approx(nll.mean().item(), abs=1e-5)

    # Our limit depends on the length of the source: one call per length.
    of_length = defaultdict(list)
    for line, ids in zip(lines, source.encode(lines), strict=True):
        of_length[len(ids) + 1].append(line)
    same = {"length_penalty": 0.0, "early_stopping": True}  # what both define alike
    for length, group in of_length.items():
        inputs = tokenizer(group, return_tensors="pt", padding=True)
        for beam in (1, 4):
            search = same if beam > 1 else {}
            ids = model.generate(**inputs, num_beams=beam, max_new_tokens=length + 5, **search)
            wanted = translator.translate(group, beam_size=beam, max_length_offset=5, **same)
            assert tokenizer.batch_decode(ids, skip_special_tokens=True) == [each.text for each in wanted]


def test_logits_loss_and_translations_are_those_of_the_run(run: RunDirectory, folder: Path) -> None:
    lengths = [len(ids) for ids in run.load_tokenizers().source.encode(LINES)]
    compare(run, folder, [line for line, length in zip(LINES, lengths, strict=True) if length in (8, 12)][:8])


@pytest.mark.slow
@pytest.mark.parametrize("norm_order", ["post", "pre"])
@pytest.mark.parametrize("attention", [*ATTENTION_VARIANTS, MIXED], ids=str)
def test_every_attention_gives_the_same_translations(tmp_path: Path, attention: Any, norm_order: str) -> None:
    run = varied_run(tmp_path / "run", attention=attention, norm_order=norm_order, tied_embeddings="all")
    compare(run, exported(run, tmp_path / "out"), LINES)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"embedding_bias": True, "decoder_start": "zero", "encoder_layers": 1},
        {"activation": "swish", "output_bias": True, "positions": "marian", "layer_norm_epsilon": 1e-3},
        {"scale_embeddings": False, "activation": "gelu", "decoder_layers": 1, "tied_embeddings": "none"},
        {"tokenizers": separate_tokenizers, "tied_embeddings": "target"},
    ],
    ids=["as the released code", "as Marian", "unscaled", "two vocabularies"],
)
def test_every_setting_gives_the_same_translations(tmp_path: Path, changes: dict[str, Any]) -> None:
    tokenizers = changes.pop("tokenizers", lambda: None)()
    run = varied_run(tmp_path / "run", tokenizers, attention="rela-i", **changes)
    compare(run, exported(run, tmp_path / "out"), LINES)


def test_attentions_are_the_weights_of_every_layer_and_hidden_states_go_with_them(
    run: RunDirectory, loaded: tuple[Any, Any]
) -> None:
    model, tokenizer = loaded
    batch = tokenizer(LINES[:3], padding=True, return_tensors="pt")
    decoder_input = pad_sequences([[BOS, *ids] for ids in run.load_tokenizers().target.encode(LINES[3:6])])
    with torch.no_grad():
        found = model(**batch, decoder_input_ids=decoder_input, output_attentions=True, output_hidden_states=True)
        ours = run.load_model()
        with capture_attention(ours) as expected:
            states = ours.decode(decoder_input, ours.encode(batch["input_ids"]))
    for site, weights in (
        ("encoder", found.encoder_attentions), ("decoder", found.decoder_attentions), ("cross", found.cross_attentions)
    ):  # fmt: skip
        layers = [expected[key] for key in sorted(expected) if key[0] == site]
        assert len(weights) == len(layers)
        for theirs, mine in zip(weights, layers, strict=True):
            torch.testing.assert_close(theirs, mine)
    assert (found.cross_attentions[0].sum(dim=-1) == 0).any(), "no null row: the test shows less than it should"
    assert len(found.encoder_hidden_states) == 3
    assert len(found.decoder_hidden_states) == 4
    torch.testing.assert_close(found.decoder_hidden_states[-1], states)
    torch.testing.assert_close(found.encoder_hidden_states[-1], found.encoder_last_hidden_state)
    assert model(**batch, decoder_input_ids=decoder_input).cross_attentions is None
    generated = model.generate(
        **batch, num_beams=1, max_new_tokens=2, output_attentions=True, return_dict_in_generate=True
    )
    assert generated.cross_attentions[1][0].shape == (3, 4, 1, batch["input_ids"].shape[1])


def test_caches_change_nothing(loaded: tuple[Any, Any]) -> None:
    model, tokenizer = loaded
    batch = tokenizer(LINES[:5], padding=True, return_tensors="pt")
    for search in ({"num_beams": 1}, {"num_beams": 3}, {"num_beams": 1, "do_sample": True, "top_k": 5}):
        results = []
        for use_cache in (True, False):
            torch.manual_seed(1)
            results.append(model.generate(**batch, **search, max_new_tokens=12, use_cache=use_cache))
        assert torch.equal(*results), search
    with pytest.raises(ConfigError, match="fixed length"):
        model.generate(**batch, num_beams=1, max_new_tokens=3, cache_implementation="static")
    # Several positions after a prefix, and a padded prefix.
    target = torch.tensor([[BOS, 5, 6, 7, 8, 9]] * 5)
    whole = model(**batch, decoder_input_ids=target)
    first = model(**batch, decoder_input_ids=target[:, :2], use_cache=True)
    past = getattr(first, "cache", None) or first.past_key_values
    rest = model(**batch, decoder_input_ids=target[:, 2:], past_key_values=past)
    torch.testing.assert_close(rest.logits, whole.logits[:, 2:], atol=1e-5, rtol=1e-6)
    padded = torch.cat([target[:, :2], torch.full((5, 2), PAD)], dim=1)
    mask = torch.tensor([[1, 1, 0, 0]] * 5)
    found = model(**batch, decoder_input_ids=padded, decoder_attention_mask=mask)
    torch.testing.assert_close(found.logits[:, :2], first.logits, atol=1e-5, rtol=1e-6)


def test_padding_is_hidden_without_a_mask(loaded: tuple[Any, Any]) -> None:
    model, tokenizer = loaded
    batch = tokenizer(LINES[:8], padding=True, return_tensors="pt")
    for beam in (1, 3):
        search = {"num_beams": beam, "max_new_tokens": 8}
        assert torch.equal(model.generate(batch["input_ids"], **search), model.generate(**batch, **search))
    encoded = model.get_encoder()(batch["input_ids"])
    target = torch.tensor([[BOS, 5, 6]] * 8)
    found = model(encoder_outputs=encoded, decoder_input_ids=target).logits
    torch.testing.assert_close(found, model(**batch, decoder_input_ids=target).logits)


def test_hooks_and_copies_see_the_encoder_that_runs(loaded: tuple[Any, Any]) -> None:
    model, tokenizer = copy.deepcopy(loaded)
    called: list[int] = []
    model.get_encoder().register_forward_hook(lambda *_: called.append(1))
    batch = pickle.loads(pickle.dumps(tokenizer))(LINES[:2], padding=True, return_tensors="pt")
    model.generate(**batch, num_beams=1, max_new_tokens=2)
    model(**batch, decoder_input_ids=batch["input_ids"])
    assert len(called) == 2


def test_vectors_may_be_given_instead_of_ids(loaded: tuple[Any, Any]) -> None:
    model, tokenizer = loaded
    batch = tokenizer(LINES[:2], padding=True, return_tensors="pt")
    target = torch.tensor([[BOS, 5, 6]] * 2)
    embed = model.get_input_embeddings()
    found = model(
        inputs_embeds=embed(batch["input_ids"]), attention_mask=batch["attention_mask"],
        decoder_inputs_embeds=embed(target),
    )  # fmt: skip
    torch.testing.assert_close(found.logits, model(**batch, decoder_input_ids=target).logits)


def test_the_tokenizer_is_that_of_the_run(run: RunDirectory, loaded: tuple[Any, Any]) -> None:
    _, tokenizer = loaded
    ours = run.load_tokenizers().target
    assert len(tokenizer) == ours.size
    ids = tokenizer(text_target=LINES)["input_ids"]
    assert ids == [[*each, EOS] for each in ours.encode(LINES)]
    assert tokenizer.batch_decode(ids, skip_special_tokens=True) == LINES
    assert tokenizer.decode(ids[0]).endswith("</s>")
    assert tokenizer.convert_ids_to_tokens(ids[0][:-1]) == ours.convert_ids_to_pieces(ids[0][:-1])
    # What looks like a special token is text; unusual spaces are repaired as in nmt-translate.
    assert EOS not in tokenizer("der</s>Hund", add_special_tokens=False)["input_ids"]
    assert tokenizer("der\u00a0Hund")["input_ids"] == tokenizer("der Hund")["input_ids"]
    with pytest.raises(DataError, match="no sub-word '<new>'"):
        tokenizer.add_tokens(["<new>"])


def test_two_vocabularies_are_read_back_each_by_its_own(tmp_path: Path) -> None:
    run = varied_run(tmp_path / "run", separate_tokenizers())
    _, tokenizer = load(exported(run, tmp_path / "out"))
    ids = tokenizer(LINES[:5], text_target=LINES[:5])
    for name, of_source in (("input_ids", True), ("labels", False)):
        texts = tokenizer.batch_decode(ids[name], skip_special_tokens=True, use_source_tokenizer=of_source)
        assert texts == LINES[:5], name


def test_saved_again_the_files_are_the_same(folder: Path, loaded: tuple[Any, Any], tmp_path: Path) -> None:
    for part in loaded:
        part.save_pretrained(tmp_path)
    for file in folder.iterdir():
        if file.name not in ("README.md", "SHA256SUMS"):
            assert (tmp_path / file.name).read_bytes() == file.read_bytes(), file.name


def test_the_readme_is_a_model_card_whose_code_works(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "library_name: transformers" in card
    assert "| licence of the text |" in card
    assert "* Attention: rela-g." in card
    (code,) = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["x"])
    (folder.parent / "script.py").write_text(code.replace("One sentence in the source language.", LINES[0]), "utf-8")
    runpy.run_path(str(folder.parent / "script.py"))
    assert capsys.readouterr().out.strip()


def test_half_precision_is_stored_and_computed(run: RunDirectory, folder: Path, tmp_path: Path) -> None:
    half = exported(run, tmp_path / "half", "--quantization", "bfloat16")
    weights = "model.safetensors"
    assert (half / weights).stat().st_size < 0.7 * (folder / weights).stat().st_size
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(half, trust_remote_code=True, dtype=torch.bfloat16)
    assert model.generate(torch.tensor([[5, 6, EOS]]), num_beams=2, max_new_tokens=3).shape[0] == 1


def test_a_folder_that_lacks_weights_is_refused(run: RunDirectory, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    broken = exported(run, tmp_path / "broken")
    weights = load_file(broken / "model.safetensors")
    del weights["transformer.encoder.0.feed_forward.fc1.weight"]
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"missing keys: transformer\.encoder\.0\.feed_forward\.fc1\.weight"):
        load(broken)


def test_settings_and_sub_word_models_of_a_folder_are_checked(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    settings = json.loads((broken / "config.json").read_text("utf-8"))
    (broken / "config.json").write_text(json.dumps({**settings, "norm_order": "Pre"}), encoding="utf-8")
    with pytest.raises(ConfigError, match="norm_order: found 'Pre'"):
        transformers.AutoModelForSeq2SeqLM.from_pretrained(broken, trust_remote_code=True)
    (broken / "joint.model").unlink()
    monkeypatch.chdir(folder)  # whose sub-word models are not those of the broken one
    with pytest.raises(DataError, match="no sub-word models"):
        transformers.AutoTokenizer.from_pretrained(broken, trust_remote_code=True)


def test_a_step_of_fine_tuning(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("accelerate", reason="accelerate is not installed, which transformers' Trainer needs")
    model, tokenizer = load(folder)
    data = [tokenizer(line, text_target=other) for line, other in zip(LINES[:8], LINES[8:16], strict=True)]
    arguments = transformers.Seq2SeqTrainingArguments(
        output_dir=str(tmp_path), max_steps=2, per_device_train_batch_size=2, gradient_accumulation_steps=2,
        learning_rate=1e-3, report_to="none", save_strategy="no", use_cpu=True, disable_tqdm=True, seed=1,
        predict_with_generate=True, generation_num_beams=1,
    )  # fmt: skip
    collator = transformers.DataCollatorForSeq2Seq(tokenizer, model=model)
    before = {name: value.clone() for name, value in model.named_parameters()}
    trainer = transformers.Seq2SeqTrainer(model=model, args=arguments, train_dataset=data, data_collator=collator)
    assert trainer.train().training_loss > 0
    changed = [name for name, value in model.named_parameters() if not torch.equal(before[name], value)]
    assert {name.split(".")[1] for name in changed} >= {"encoder", "decoder", "source_embedding", "output_embedding"}
    assert model.transformer.output_embedding is model.transformer.target_embedding.weight
    evaluated = trainer.predict(data[:3], max_new_tokens=6)
    inputs = tokenizer(LINES[:3], padding=True, return_tensors="pt")
    model.eval()
    generated = model.generate(**inputs, num_beams=1, max_new_tokens=6)
    assert evaluated.predictions[:, : generated.shape[1]].tolist() == generated.tolist()
    with torch.no_grad():
        labels = tokenizer(text_target=LINES[8:11], padding=True, return_tensors="pt")["input_ids"]
        found = model(**inputs, labels=labels.masked_fill(labels == PAD, -100))
    assert found.loss.item() == pytest.approx(evaluated.metrics["test_loss"], abs=1e-4)
    trainer.save_model(str(tmp_path / "tuned"))
    again = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "tuned", trust_remote_code=True)
    assert torch.equal(again.transformer.output_embedding, model.transformer.output_embedding)


@pytest.mark.skipif(
    int(transformers.__version__.split(".")[0]) >= 5, reason="transformers 5 has no pipeline for translation"
)
def test_the_translation_pipeline(loaded: tuple[Any, Any]) -> None:
    model, tokenizer = loaded
    translate = transformers.pipeline("translation", model=model, tokenizer=tokenizer)
    (found,) = translate(LINES[:1], max_new_tokens=6, num_beams=1)
    ids = model.generate(**tokenizer(LINES[:1], return_tensors="pt"), max_new_tokens=6, num_beams=1)
    assert found["translation_text"] == tokenizer.decode(ids[0], skip_special_tokens=True)


@pytest.mark.slow
def test_a_moved_folder_without_the_package_says_how_to_install_it(folder: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for file in folder.iterdir():
        (moved / file.name).write_bytes(file.read_bytes())
    code = (
        "import sys; sys.modules['nmt_rela'] = None; from transformers import AutoModelForSeq2SeqLM as M; "
        "M.from_pretrained('.', trust_remote_code=True)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=moved, capture_output=True, text=True)
    assert done.returncode != 0
    assert "pip install 'nmt_rela[huggingface]'" in done.stderr.strip().splitlines()[-1]


@pytest.mark.parametrize(
    ("package", "files"), [("bertviz", 2), pytest.param("inseq", 4, marks=pytest.mark.slow)], ids=["bertviz", "inseq"]
)
def test_the_examples_of_the_page_on_interpretability(
    folder: Path, tmp_path: Path, package: str, files: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(package, reason=f"{package} is not installed")
    (tmp_path / "hub").symlink_to(folder)
    page = blocks_of(REPOSITORY / "docs/interpretability.md")
    (block,) = [block for block in page if f"needs {package}" in block.mark]
    (tmp_path / "program.py").write_text(block.text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    runpy.run_path("program.py")
    pages = [path.read_text(encoding="utf-8") for path in tmp_path.glob("*.html")]
    assert len(pages) == files
    assert all("</s>" in page or "&lt;/s&gt;" in page for page in pages)


def test_gradients_by_inseq_are_those_of_the_source_embeddings(loaded: tuple[Any, Any], run: RunDirectory) -> None:
    inseq = pytest.importorskip("inseq", reason="inseq is not installed")
    model, tokenizer = loaded
    search = {"max_new_tokens": 3, "num_beams": 1}
    found = inseq.load_model(model, "saliency", tokenizer=tokenizer).attribute(
        LINES[0], attribute_target=True, generation_args=search, show_progress=False
    )
    (sequence,) = found.sequence_attributions
    ids = torch.tensor(tokenizer([LINES[0]])["input_ids"])
    # inseq encodes the text of the translation anew.
    text = tokenizer.decode(model.generate(ids, **search)[0], skip_special_tokens=True)
    target = torch.tensor([[BOS, *tokenizer(text_target=text)["input_ids"]]])
    ours = run.load_model()
    source_vectors = ours.source_embedding(ids).detach().requires_grad_()
    target_vectors = ours.embed_target(target[:, :2]).detach().requires_grad_()
    x = ours.encode_embedded(source_vectors, ids != PAD)
    logits = ours.decode_embedded(target_vectors, x)
    probability = ours.output_projection(logits)[0, 1].softmax(0)[target[0, 2]]  # of the second sub-word
    of_source, of_target = torch.autograd.grad(probability, [source_vectors, target_vectors])
    width = of_source.shape[2]
    theirs = sequence.source_attributions[:, 1], sequence.target_attributions[:2, 1]
    torch.testing.assert_close(theirs[0][:, :width], of_source[0].abs(), atol=1e-6, rtol=1e-3)
    torch.testing.assert_close(theirs[1][:, width:], of_target[0].abs(), atol=1e-6, rtol=1e-3)
    assert not theirs[0][:, width:].any()
    assert not theirs[1][:, :width].any()
