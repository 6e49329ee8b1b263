"""The probe of the source: which likelihoods and repetitions it measures of a run."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tools import source_probe
from tools.source_probe import other_sources, probe, repeated_words
from tools.training_records import source_table

from nmt_rela.analysis.teacher_forcing import EncodedPair, encode_pairs, teacher_forced_pass
from nmt_rela.checkpoints.checkpoint import weights_checksum
from nmt_rela.checkpoints.run_directory import RunDirectory
from nmt_rela.data.prepared_data import EvaluationSet
from nmt_rela.generation.evaluation import store_evaluation
from nmt_rela.utils.errors import UserError
from nmt_rela.utils.text import read_parallel
from tests.integration.small_run import write_run, write_text


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run whose development set is translated as the reference, with its first line doubled."""
    source, target, _ = write_text(tmp_path)
    dev = EvaluationSet(name="dev", source=source, target=target, bleu_tokenizer="13a", gold_alignments=None)
    monkeypatch.setattr(source_probe, "load_prepared", lambda _: SimpleNamespace(dev=dev))
    monkeypatch.setattr(source_probe, "MEASUREMENTS", tmp_path)
    run = write_run(tmp_path / "run", attention="rela-g")
    checkpoint = run.checkpoint()
    first, *rest = target.read_text("utf-8").splitlines()
    entry = {"name": "dev", "source": str(source), "weights": weights_checksum(checkpoint), "references_sha256": "0"}
    entry["settings"] = {"beam_size": 4}
    store_evaluation(run.path / "evaluation" / checkpoint.name, [f"{first} {first.upper()}", *rest], [[]], entry)
    return run.path


def test_every_target_gets_the_source_of_its_neighbour_in_length() -> None:
    pairs = [EncodedPair(index, (index,), (9,) * length) for index, length in enumerate((4, 2, 3, 2))]
    found = {pair.index: (pair.source, len(pair.target)) for pair in other_sources(pairs)}
    assert found == {1: ((3,), 2), 3: ((2,), 2), 2: ((0,), 3), 0: ((1,), 4)}


def test_words_repeat_within_their_line_in_any_case() -> None:
    assert repeated_words(["a man and a dog", "A a a", "", "a"]) == pytest.approx(1000 * 3 / 9)
    assert repeated_words([""]) == 0


def test_likelihoods_and_repetitions_of_a_run(run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    losses = iter([[0.5, 0.6, 4.0, 5.0], [4.0, 4.0, 4.0, 5.0]])  # ln 2 is 0.69, ln 100 is 4.6
    read: list[list[tuple[int, ...]]] = []

    def token_nlls(_: object, pairs: list[EncodedPair]) -> torch.Tensor:
        read.append([pair.source for pair in sorted(pairs, key=lambda pair: pair.index)])
        return torch.tensor(next(losses))

    monkeypatch.setattr(source_probe, "token_nlls", token_nlls)
    found = probe(run)
    assert sorted(read[0]) == sorted(read[1])
    assert read[0] != read[1]
    assert (found["nll"], found["nll_other_source"]) == (2.525, 4.25)
    assert (found["likely"], found["unlikely"]) == (0.5, 0.25)
    references = (tmp_path / "text.de").read_text("utf-8").splitlines()
    first, words = len(references[0].split()), sum(len(line.split()) for line in references)
    assert found["length"] == pytest.approx((words + first) / words, abs=1e-5)
    repeated = found["repeated_words_reference"] * words / 1000 + first
    assert found["repeated_words"] == pytest.approx(1000 * repeated / (words + first), abs=1e-2)
    assert list(source_table({"run": {"file": "use/run.json", **found}}))[2:] == [
        f"| [run](measurements/use/run.json) | 2.525 | 4.250 | 1.725 | 50.0 % | 25.0 % "
        f"| {found['repeated_words']:.1f} | {found['length']:.3f} |",
        "",
        f"The references repeat {found['repeated_words_reference']:.1f} per thousand words.",
    ]


def test_nll_is_that_of_teacher_forcing_without_padding(
    run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("sys.argv", ["source_probe", str(run), "--to", "kept", "--change", "none"])
    assert source_probe.main() == 0
    found = json.loads((tmp_path / "kept" / "run.json").read_text("utf-8"))
    assert found == probe(run, change="none")
    assert found["change"] == "none"
    assert found["settings"] == {"beam_size": 4}
    directory = RunDirectory(run)
    lines = list(read_parallel(tmp_path / "text.en", tmp_path / "text.de"))
    pairs = encode_pairs(lines, directory.load_tokenizers())
    log_probs = teacher_forced_pass(directory.load_model().eval(), pairs)
    expected = -sum(log_probs) / sum(len(pair.target) for pair in pairs)
    assert found["nll"] == pytest.approx(expected, abs=1e-4)
    assert found["nll_other_source"] != found["nll"]


def test_what_cannot_be_measured_is_refused(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for argv, message in (
        ([str(run), str(run)], "the names of the runs"),
        ([str(run), "--to", "other"], "--to other: holds records of another kind"),
    ):
        (tmp_path / "other").mkdir(exist_ok=True)
        (tmp_path / "other" / "a.json").write_text('{"layers": []}', "utf-8")
        monkeypatch.setattr("sys.argv", ["source_probe", "--to", "kept", *argv])
        with pytest.raises(SystemExit, match="2"):
            source_probe.main()
        assert message in capsys.readouterr().err
    (tmp_path / "other" / "a.json").write_text("{", "utf-8")
    with pytest.raises(SystemExit, match="2"):
        source_probe.main()
    (translations,) = run.glob("evaluation/*/dev.txt")
    translations.write_text("one line\n", "utf-8")
    with pytest.raises(UserError, match="1 translations of the 12 lines of dev"):
        probe(run)
    scores = translations.with_name("scores.json")
    scores.write_text(scores.read_text("utf-8").replace('"dev"', '"test"'), "utf-8")
    with pytest.raises(UserError, match="no translations of dev; nmt-evaluate --test-set dev"):
        probe(run)
    for lines in ("ein haus\n", "\n\n"):
        for name in ("text.en", "text.de"):
            (tmp_path / name).write_text(lines, "utf-8")
        with pytest.raises(UserError, match="needed are two, and words"):
            probe(run)
