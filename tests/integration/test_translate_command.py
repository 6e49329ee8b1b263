"""nmt-translate, nmt-score and nmt-evaluate on a run directory, as a shell sees them."""

from __future__ import annotations

import gzip
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from toy_translator import toy_run
from translating import LINES, Translate

from nmt_rela import Translator
from nmt_rela.checkpoints.run_directory import RunDirectory
from nmt_rela.commands import evaluate, score, translate
from nmt_rela.config.loader import config_to_yaml
from nmt_rela.data.prepared_data import EvaluationSet, PreparedData
from nmt_rela.preparation import pipeline
from tests.integration.small_run import ENGLISH, write_run, write_text

AWKWARD = "der Hund\r\n\n  \nein\u2028Haus\u0085neu\nHund Katze 🎉🎉\x0b\x0c\x00".encode()


def texts(output: bytes) -> list[str]:
    assert output == b"" or output.endswith(b"\n")
    return output.decode().split("\n")[:-1]


def test_one_line_per_line_as_from_python(translated: Translate, run: Path) -> None:
    expected = [translation.text for translation in Translator.load(run, device="cpu").translate(LINES)]
    assert texts(translated()) == expected
    assert texts(translated(given="\n".join(LINES).encode())) == expected  # no line end at the end of the file
    assert texts(translated("--beam-size", "1")) != expected
    assert texts(translated("decoding.beam_size=1")) == texts(translated("--beam-size", "1"))
    assert texts(translated("--checkpoint", "step_00000001")) != expected
    assert texts(translated("--checkpoint", "step_1")) == texts(translated("--checkpoint", "step_00000001"))


def test_awkward_input_keeps_its_lines(translated: Translate) -> None:
    found = texts(translated(given=AWKWARD))
    assert len(found) == 5
    assert found[1:3] == ["", ""]
    assert found[0] == texts(translated(given=b"der Hund"))[0]
    assert translated(given=b"") == b""
    assert translated(given=b"\n") == b"\n"


def test_invalid_utf8_is_replaced_with_one_warning(translated: Translate) -> None:
    assert len(texts(translated(given=b"Hund\n\xff Hund\n\xfe\xfe\n"))) == 3
    log = translated.log.decode()
    assert log.count("invalid UTF-8") == 1
    assert "stdin:2: invalid UTF-8" in log


def test_over_long_lines_are_named(translated: Translate) -> None:
    long = " ".join(["ein Hund läuft."] * 700)
    found = texts(translated("--beam-size", "1", given=f"Hund\n{long}\nKatze\n".encode()))
    assert len(found) == 3
    assert "warning: line 2: " in translated.log.decode()


def test_moses_n_best(translated: Translate) -> None:
    found = [line.split(" ||| ") for line in texts(translated("--n-best", "3"))]
    assert [int(number) for number, _, _ in found] == [i for i in range(len(LINES)) for _ in range(3)]
    for line in range(len(LINES)):
        scores = [float(score) for _, _, score in found[3 * line : 3 * line + 3]]
        assert scores == sorted(scores, reverse=True)
    assert [text for _, text, _ in found[::3]] == texts(translated())


def test_scores_and_word_links(translated: Translate) -> None:
    plain = texts(translated())
    for line, text in zip(texts(translated("--scores", "--alignments")), plain, strict=True):
        found, score, links = line.split(" ||| ")
        assert found == text
        assert float(score) < 0
        assert all(len(link.split("-")) == 2 for link in links.split())
    assert texts(translated("--alignments", "--alignment-layer", "0", "--alignment-head", "1")) != plain


def test_json_lines(translated: Translate) -> None:
    values = [json.loads(line) for line in texts(translated("--format", "jsonl", "--n-best", "2", "--alignments"))]
    assert [value["source"] for value in values] == LINES
    assert [value["translation"] for value in values] == texts(translated())
    for value in values:
        assert len(value["hypotheses"]) == 2
        for hypothesis in value["hypotheses"]:
            assert len(hypothesis["tokens"]) == len(hypothesis["token_log_probabilities"])
            assert hypothesis["log_probability"] == pytest.approx(sum(hypothesis["token_log_probabilities"]), abs=1e-4)
            assert all(len(link) == 2 for link in hypothesis["alignment"])


@pytest.mark.parametrize("workers", [1, 2])
def test_one_prefix_per_line(translated: Translate, run: Path, tmp_path: Path, workers: int) -> None:
    begun = ["die Katze", "", "heute", *[""] * (len(LINES) - 3)]
    path = tmp_path / "begun"
    path.write_text("".join(f"{line}\n" for line in begun), encoding="utf-8")
    found = texts(translated("--prefixes", str(path), "--workers", str(workers)))
    expected = Translator.load(run, device="cpu").translate(LINES, prefixes=begun)
    assert found == [translation.text for translation in expected]
    assert found[0].startswith("die Katze")
    for count, message in (
        (len(LINES) - 1, f"prefixes: {len(LINES) - 1} lines, but"),
        (len(LINES) + 1, "prefixes: more"),
    ):
        path.write_text("\n" * count, encoding="utf-8")
        translated("--prefixes", str(path), "--workers", str(workers), status=2)
        assert message.encode() in translated.log


@pytest.mark.parametrize("workers", [1, 2])
def test_zero_threads_are_refused(translated: Translate, workers: int) -> None:
    translated("--threads", "0", "--workers", str(workers), status=2)
    assert b"--threads: found 0; accepted: 1 to 512" in translated.log


def test_samples(translated: Translate) -> None:
    first = translated("--sample", "--seed", "3", "--temperature", "1.5", "--top-k", "20")
    assert first == translated(
        "--sample", "--seed", "3", "--temperature", "1.5", "--top-k", "20", "decoding.batch_tokens=20"
    )
    assert first != translated("--sample", "--seed", "4", "--temperature", "1.5", "--top-k", "20")


def test_processes_translate_as_one_does(translated: Translate) -> None:
    long = " ".join(["ein Hund läuft."] * 30)
    given = "\n".join([*LINES, long, ""]).encode()
    options = ("--beam-size", "2", "--n-best", "2", "--format", "jsonl", "--alignments")
    parallel = [json.loads(line) for line in texts(translated(*options, "--workers", "2", given=given))]
    assert f"line {len(LINES) + 1}: " in translated.log.decode()
    for one, other in zip(
        [json.loads(line) for line in texts(translated(*options, given=given))], parallel, strict=True
    ):
        assert [h["tokens"] for h in one["hypotheses"]] == [h["tokens"] for h in other["hypotheses"]]
        assert [h["alignment"] for h in one["hypotheses"]] == [h["alignment"] for h in other["hypotheses"]]
        assert [h["score"] for h in one["hypotheses"]] == pytest.approx(
            [h["score"] for h in other["hypotheses"]], abs=1e-5
        )
    assert translated("--workers", "2", "--sample") == translated("--sample")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--n-best", "0"], "--n-best: found 0; accepted: 1 to 1000"),
        (["--top-k", "0"], "--top-k needs --sample"),
        (["--seed", "1"], "--seed needs --sample"),
        (["--alignment-head", "0"], "--alignment-head needs --alignments"),
        (["--alignment-shifted"], "--alignment-shifted needs --alignments"),
        (["--sample", "--beam-size", "4"], "--sample and --beam-size exclude each other"),
        (["decoding.min_length=9"], "decoding.min_length: found 9; accepted: up to decoding.max_length_offset + 1"),
        (["--workers", "0"], "--workers: found 0; accepted: 1 to 64"),
        (["--workers", "2", "--n-best", "9"], "(--n-best): found 9; accepted: 1 up to the beam size, 4"),
        (["--n-best", "9"], "(--n-best): found 9; accepted: 1 up to the beam size, 4"),
        (["--beam-size", "0"], "--beam-size: found 0; accepted: 1 to 256"),
        (["model.num_heads=2"], "accepted: decoding.key=value"),
        (["decoding.beam_sice=2"], "did you mean"),
        (["--checkpoint", "lost"], "did you mean 'last'?"),
        (["--device", "cuda:77"], "CUDA devices are visible"),
        (["--alignments", "--alignment-layer", "9"], "accepted: 0 to 1"),
        (["--sample", "--top-p", "2"], "--top-p: found 2.0; accepted: 1e-06 to 1.0"),
        (["--sample", "--temperature", "inf"], "--temperature: expected a number, found the text 'inf'"),
        (["--sample", "--temperature", "1e-300"], "--temperature: found 1e-300; accepted: 0.001 to 1000.0"),
        (["--sample", "--seed", "-1"], "--seed: found -1; accepted: 0 or more"),
        (["--sample", "decoding.beam_size=2"], "--sample and decoding.beam_size exclude each other"),
        (["--length-penalty", "nan"], "--length-penalty: expected a number, found the text 'nan'"),
        (["--max-length-offset", "99999"], "--max-length-offset: found 99999; accepted: 0 to 10000"),
        (["--beam-size", "2", "decoding.beam_size=3"], "--beam-size: decoding.beam_size is given too"),
        (["--early-stopping", "--no-early-stopping"], "--early-stopping: given more than once"),
        ([""], "override '': only the decoding"),
        (["--threads", "100000"], "--threads: found 100000; accepted: 1 to 512"),
        (["--scores", "--format", "jsonl"], "--scores and --format jsonl exclude each other"),
        (["--scores", "--n-best", "2"], "--scores and --n-best exclude each other"),
        (["--precision", "fp16"], "'fp16' needs a GPU; accepted on the CPU: float32, bf16, int8"),
        (["--model", ""], "--model: found an empty path"),
        (["--output", ""], "--output: found an empty path"),
        (["--output", "."], "--output: . cannot be written: is a directory"),
        (["--output", "nowhere/x"], "--output: nowhere/x cannot be written: nowhere: no such file or directory"),
        (["--prefixes", "~nobody-at-all/x"], "--prefixes: found '~nobody-at-all/x'; accepted: a path"),
        (["--input", "/no/such/file"], "--input: /no/such/file: no such file"),
        (["--model", "/no/such/run"], "not a run directory"),
    ],
)
def test_a_user_error_is_one_line_on_stderr(translated: Translate, arguments: list[str], message: str) -> None:
    assert translated(*arguments, status=2) == b""
    log = translated.log.decode()
    assert message in log
    assert log.count("\n") == 1


def test_a_plain_reader_finds_the_linked_characters_of_chinese(
    tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    chinese = "我们在北京看见老猫 红色的房子今天睡觉 小狗看见我们在睡觉".split()
    run = write_run(tmp_path / "zh", words=(*ENGLISH, *chinese))
    run.config_file.write_text(run.config_file.read_text("utf-8").replace("target_language: de", "target_language: zh"))
    source = write_text(tmp_path)[0]
    options = ["--device", "cpu", "--alignments", "--sample", "--max-length-offset", "9"]
    assert translate.main(["--model", str(run.path), "--input", str(source), *options]) == 0
    more = 0
    for line in texts(capsysbinary.readouterr().out):
        text, _, links = line.partition(" ||| ")
        characters = re.findall("[\u4e00-\u9fff]|[^\\s\u4e00-\u9fff]+", text)
        linked = {int(link.split("-")[1]) for link in links.split()}
        assert linked <= set(range(len(characters)))
        more += len(linked) - len(text.split())
    assert more > 0


def test_ensembles_need_one_vocabulary(translated: Translate, run: Path, tmp_path: Path) -> None:
    other = toy_run(tmp_path / "other", seed=50)
    assert texts(translated("--model", str(other))) != texts(translated())
    with open(other / "tokenizer/joint.model", "ab") as model:
        model.write(b"\x1a\x05\x0a\x03abc")  # another name of the normalizer: the same pieces, another model
    translated("--model", str(other), status=2)
    assert "another vocabulary" in translated.log.decode()
    translated("--model", f"{run}/../{run.name}", status=2)
    assert f"{run.name}: found more than once; accepted: an ensemble of different runs" in translated.log.decode()


def test_input_may_be_compressed_and_output_a_file(translated: Translate, run: Path, tmp_path: Path) -> None:
    expected = translated()
    text, output = tmp_path / "text", tmp_path / "output"
    text.write_bytes(gzip.compress("\n".join([*LINES, ""]).encode()))
    assert translated("--input", str(text), "--output", str(output)) == b""
    assert output.read_bytes() == expected
    translated("--input", str(text), "--output", str(text), status=2)
    assert "is the --input; accepted: another file" in translated.log.decode()
    prefixes = ("--prefixes", str(output), "--output", str(output))
    translated("--input", str(text), *prefixes, status=2)
    assert "is the --prefixes; accepted: another file" in translated.log.decode()
    assert output.read_bytes() == expected
    translated("--input", str(text), "--output", "/dev/full", status=2)
    assert translated.log.decode().strip().endswith("nmt-translate: error: /dev/full: no space left on device")
    translated("--input", str(run / "tokenizer/joint.model"), status=2)
    assert "joint.model: found binary data; accepted: UTF-8 text" in translated.log.decode()
    text.write_bytes(text.read_bytes()[:-9])
    translated("--input", str(text), status=2)
    assert translated.log.decode().startswith(f"nmt-translate: error: {text}: cannot be read: Compressed file ended")


def test_scores_of_given_translations(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_text("".join(f"{line}\n" for line in LINES), encoding="utf-8")
    target.write_text("".join(f"{line}\n" for line in reversed(LINES)), encoding="utf-8")
    arguments = ["--model", str(run), "--source", str(source), "--target", str(target), "--device", "cpu"]
    assert score.main(arguments) == 0
    printed = capsys.readouterr()
    expected = Translator.load(run, device="cpu").score(LINES, LINES[::-1])
    assert [float(line) for line in printed.out.split()] == pytest.approx(
        [s.log_probability for s in expected], abs=1e-5
    )
    assert "perplexity" in printed.err
    assert score.main([*arguments, "--format", "jsonl"]) == 0
    values = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert values[0]["tokens"][-1] == "</s>"
    target.write_text("Hund\n", encoding="utf-8")
    assert score.main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert f"{len(LINES)} lines" in printed.err


def test_candidates_are_scored_and_ranked_by_the_mean(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, listed = tmp_path / "source", tmp_path / "list"
    source.write_text("".join(f"{line}\n" for line in [*LINES[:3], ""]), encoding="utf-8")
    command = ["--model", str(run), "--device", "cpu", "--quiet"]
    assert translate.main([*command, "--input", str(source), "--n-best", "3", "--output", str(listed)]) == 0
    rescore = [*command, "--source", str(source), "--n-best", str(listed)]
    assert score.main(rescore) == 0
    lines = [line.split(" ||| ") for line in capsys.readouterr().out.splitlines()]
    assert len(lines) == 10
    sources = [[*LINES[:3], ""][int(line[0])] for line in lines]
    results = Translator.load(run, device="cpu").score(sources, [line[1] for line in lines])
    expected = [result.log_probability / ((5 + len(result.tokens)) / 6) ** 0.6 for result in results]
    assert [float(line[3]) for line in lines] == pytest.approx(expected, abs=1e-5)
    assert score.main([*rescore, "--best"]) == 0
    best = [max((n for n in range(10) if lines[n][0] == str(i)), key=lambda n: float(lines[n][2]) + expected[n])
            for i in range(4)]  # fmt: skip
    assert capsys.readouterr().out.splitlines() == [lines[n][1] for n in best]
    assert best != [0, 3, 6, 9], "not only the first ones"
    for bad, where in (
        ("0 ||| a ||| 1\n7 ||| b ||| 1\n", "list:2: line 7"),
        ("Hund\n", "list:1: found 'Hund'"),
        (f"{'9' * 5_000} ||| a ||| 1\n", "list:1: found '999"),
        ("0 ||| a ||| 1\n0 ||| b ||| nan\n", "list:2: 0 scores; accepted: 1, as in the lines before"),
        (f"0 ||| a ||| 1\n0 ||| {'der Hund ' * 5_001} ||| 1\n", "list: line 2: a pair of"),
    ):
        listed.write_text(bad, "utf-8")
        assert score.main(rescore) == 2
        printed = capsys.readouterr()
        assert printed.out == ""
        assert where in printed.err


def test_evaluation_of_given_text(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, reference = tmp_path / "test.a", tmp_path / "test.b"
    source.write_text("".join(f"{line}\n" for line in LINES), encoding="utf-8")
    expected = [translation.text for translation in Translator.load(run, device="cpu").translate(LINES)]
    reference.write_text("".join(f"{line}\n" for line in expected), encoding="utf-8")
    arguments = ["--model", str(run), "--source", str(source), "--reference", str(reference), "--device", "cpu"]
    assert evaluate.main([*arguments, "--json"]) == 0
    (result,) = json.loads(capsys.readouterr().out)
    assert result["name"] == "test.a"
    assert result["chrf"] == pytest.approx(100.0)
    assert "tok:13a" in result["bleu_signature"]
    directory = run / "evaluation/last"
    assert (directory / "test.a.txt").read_text(encoding="utf-8").split("\n")[:-1] == expected
    (stored,) = json.loads((directory / "scores.json").read_text(encoding="utf-8"))
    assert stored.pop("references") == ["references/1/test.a.txt"]
    assert stored == result
    assert evaluate.main([*arguments, "--tokenizer", "char", "--beam-size", "1"]) == 0
    printed = capsys.readouterr().out
    assert "tok:char" in printed
    assert printed.startswith(f"test.a ({len(LINES)} sentences)\n")
    assert evaluate.main(arguments[:4]) == 2
    assert evaluate.main(["--model", str(run)]) == 2  # its data are not prepared
    assert capsys.readouterr().err.count("error") == 2


def romanian_run(path: Path, **languages: str) -> Path:
    directory = RunDirectory(toy_run(path))
    config = directory.config()
    data = replace(config.data, romanian_diacritics="remove", **languages)
    directory.config_file.write_text(config_to_yaml(replace(config, data=data)), encoding="utf-8")
    return path


def test_given_text_is_normalized_as_training_text_was(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = ["Haus Baum Hund.", "das schläft."]
    written = [line.replace("s", "ş").replace("a", "ă") for line in lines]
    reader = Translator.load(romanian_run(tmp_path / "from", source_language="ro"), device="cpu")
    plain, marked = reader.translate(lines), reader.translate(written)
    assert [line.hypotheses for line in marked] == [line.hypotheses for line in plain]
    assert [line.source for line in marked] == written
    assert reader.score(written, lines) == reader.score(lines, lines)

    run = romanian_run(tmp_path / "into", target_language="ro")
    writer = Translator.load(run, device="cpu")
    assert writer.score(lines, written) == writer.score(lines, lines)
    assert writer.translate(lines, prefixes=written) == writer.translate(lines, prefixes=lines)
    (tmp_path / "source").write_text("".join(f"{line}\n" for line in LINES), encoding="utf-8")
    marks = str.maketrans("ast", "ăşţ")  # whatever the untrained model writes, some of these letters are in it
    references = [translation.text.translate(marks) for translation in writer.translate(LINES)]
    assert set("ăşţ") & set("".join(references))
    (tmp_path / "reference").write_text("".join(f"{line}\n" for line in references), encoding="utf-8")
    arguments = [f"--source={tmp_path / 'source'}", f"--reference={tmp_path / 'reference'}", "--device=cpu", "--json"]
    assert evaluate.main(["--model", str(run), *arguments]) == 0
    assert json.loads(capsys.readouterr().out)[0]["chrf"] == pytest.approx(100.0)


def test_a_test_set_may_have_the_name_of_the_development_set(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def text_set(name: str, stem: str, lines: list[str]) -> EvaluationSet:
        path = tmp_path / stem
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return EvaluationSet(name=name, source=path, target=path, bleu_tokenizer="13a", gold_alignments=None)

    data = PreparedData(
        directory=tmp_path, train=tmp_path, dev_binary=tmp_path, dev=text_set("news", "dev", LINES[:1]),
        tests=(text_set("news", "test", LINES[:3]),), tokenizer=tmp_path, counts={}, title="news", licence="",
    )  # fmt: skip
    monkeypatch.setattr(pipeline, "load_prepared", lambda _: data)
    for options, expected in (([], 3), (["--test-set", "news"], 3), (["--test-set", "dev"], 1)):
        assert evaluate.main(["--model", str(run), "--device", "cpu", "--json", *options]) == 0
        assert [found["sentences"] for found in json.loads(capsys.readouterr().out)] == [expected]


@pytest.mark.parametrize(("stream", "closed"), [("stdin", "<&-"), ("stdout", ">&-")])
def test_a_closed_stream_is_one_line(run: Path, stream: str, closed: str) -> None:
    command = f"{sys.executable} -m nmt_rela.commands.translate --model {run} --device cpu {closed}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert f"error: {stream} is closed; accepted: " in done.stderr


def start(run: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "nmt_rela.commands.translate", "--model", str(run), "--device", "cpu", "--quiet"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    )


def test_a_slow_pipe_is_answered_at_once(run: Path) -> None:
    with start(run) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for line in LINES[:3]:
            process.stdin.write(line.encode() + b"\n")
            process.stdin.flush()
            assert process.stdout.readline().endswith(b"\n")  # waits for ever where nothing comes before the end
        process.stdin.close()
        assert process.stdout.read() == b""
        assert process.wait(30) == 0


def test_a_closed_pipe_prints_nothing(run: Path) -> None:
    with start(run) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        process.stdin.write(b"Hund\n")
        process.stdin.flush()  # and stays open: the reading thread waits when the program ends
        assert process.wait(30) == 141
        assert process.stderr.read() == b""
