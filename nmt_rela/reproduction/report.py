"""Findings as a report: our figures beside the paper's, and all that a reader must know to trust or repeat them."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nmt_rela.analysis import plots
from nmt_rela.config.loader import diff_configs, load_config
from nmt_rela.reproduction import paper_results
from nmt_rela.reproduction.experiment import ATTENTION_VARIANTS, BASELINE, REPOSITORY, Experiment
from nmt_rela.reproduction.markdown import Block, Code, Figure, Heading, Paragraph, Points, Table, to_html, to_markdown
from nmt_rela.reproduction.results import Findings, Tree, gather, own_configuration
from nmt_rela.reproduction.step_state import Journal
from nmt_rela.utils.files import atomic_write
from nmt_rela.utils.progress import format_duration

_MODES = ("normal", "shifted")
_OF = ("best", "average")


def write_report(experiment: Experiment, journal: Journal) -> list[Path]:
    """Gather, draw and write ``results.json``, ``report.md`` and ``report.html``; their paths."""
    findings = gather(experiment)
    directory = experiment.output
    blocks = list(_blocks(experiment, findings, journal))
    written = {
        "results.json": json.dumps({**findings.results(), "speed": findings.speed}, indent=1, ensure_ascii=False)
        + "\n",
        "report.md": to_markdown(blocks, beside=directory),
        "report.html": to_html(blocks),
    }
    for name, text in written.items():
        with atomic_write(directory / name) as stream:
            stream.write(text.encode("utf-8"))
    return [directory / name for name in written]


def _blocks(experiment: Experiment, findings: Findings, journal: Journal) -> Iterator[Block]:
    task = findings.task
    yield Heading(f"{task['title']}, {task['source']} to {task['target']}: softmax, sparse and rectified attention", 1)
    yield Paragraph(_scale_note(experiment))
    yield from _scores(experiment, findings)
    yield from _speed(findings)
    yield from _curves(experiment, findings)
    yield from _attention(findings)
    yield from _alignment(experiment, findings)
    yield Heading("What differs from the paper, and what is missing")
    yield Points(list(_deviations(experiment, findings)))
    yield from _how(experiment, findings, journal)


def _scale_note(experiment: Experiment) -> str:
    if experiment.scale == "smoke":
        return (
            "**Smoke scale: tiny models, little text, a few updates.** The figures show that every step works. They "
            "say nothing about attention or translation."
        )
    if experiment.scale == "small":
        return "Small scale: a smaller model and less text than the paper's; compare kinds with each other only."
    return (
        "Every figure comes from the runs listed below. The paper's figures are those of its authors' public files; "
        "where they give none, the cell is empty (–)."
    )


def _scores(experiment: Experiment, findings: Findings) -> Iterator[Block]:
    yield Heading("Translation quality")
    paper = paper_results.BLEU.get(experiment.name, {})
    signatures = []
    for test in findings.task["tests"]:
        rows = []
        for run in findings.runs:
            score = run["scores"].get(test)
            if score is None:
                rows.append([run["kind"], str(run["seed"]), f"{run['updates']:,}", *["–"] * 6])
                continue
            compared = findings.significance.get(test, {}).get(run["name"], {})
            rows.append(
                [
                    run["kind"], str(run["seed"]), f"{run['updates']:,}", f"{score['bleu']:.2f}",
                    _interval(compared.get("bleu")), _p(compared.get("bleu")), f"{score['chrf']:.2f}",
                    _number(score["length_ratio"], 3), _number(paper.get(run["kind"]), 1),
                ]
            )  # fmt: skip
            signatures += [score["bleu_signature"], score["chrf_signature"]]
        header = ["attention", "seed", "updates", "BLEU", "95 % interval", "p", "chrF2", "length", "paper's BLEU"]
        yield Heading(test, 3)
        yield Table(header, rows)
        if len(experiment.seeds) > 1:
            yield from _over_seeds(test, findings)
    if signatures:
        yield Paragraph("Signatures: " + ", ".join(f"`{text}`" for text in dict.fromkeys(signatures)) + ".")
    yield Paragraph(
        "Intervals are bootstrap resamples of the test set (1,000). p is the paired bootstrap's probability that "
        "chance alone makes a difference to the softmax run of the same seed as large as the one found; it knows "
        "nothing of other seeds. Length is words translated over words of the "
        "reference. Scored are averages of the last checkpoints, translated as the configuration says."
    )


def _over_seeds(test: str, findings: Findings) -> Iterator[Block]:
    rows = []
    for kind in dict.fromkeys(run["kind"] for run in findings.runs):
        values = [run["scores"][test]["bleu"] for run in findings.runs if run["kind"] == kind and test in run["scores"]]
        if values:
            deviation = statistics.stdev(values) if len(values) > 1 else None
            rows.append([kind, str(len(values)), f"{statistics.mean(values):.2f}", _number(deviation, 2)])
    yield Table(["attention", "seeds", "mean BLEU", "standard deviation"], rows)


def _speed(findings: Findings) -> Iterator[Block]:
    first = findings.runs[0]["kind"]
    yield Heading(f"Speed relative to {first}")
    training = {row["attention"]: row for row in findings.speed.get("training", {}).get("rows", [])}
    decoding = _decoding_rows(findings)
    if not training and not decoding:
        yield Paragraph("Not measured.")
        return
    first_training = next(iter(training.values()), None)
    first_decoding = next(iter(decoding.values()), None)
    rows = []
    for kind in dict.fromkeys(run["kind"] for run in findings.runs):
        trained, decoded = training.get(kind), decoding.get(kind)
        rows.append(
            [
                kind,
                f"{trained['target_tokens_per_second']:,.0f}" if trained else "–",
                _number(trained["ratio"], 2) if trained else "–",
                _number(paper_results.TRAINING_SPEED.get(kind) if first == BASELINE else None, 2),
                f"{decoded['tokens_per_second']:,.0f}" if decoded else "–",
                _number(decoded["tokens_per_second"] / first_decoding["tokens_per_second"], 2)
                if decoded and first_decoding
                else "–",
                _number(paper_results.DECODING_SPEED.get(kind) if first == BASELINE else None, 2),
            ]
        )
    header = ["attention", "training, tokens/s", "ratio", "paper's", "decoding, tokens/s", "ratio", "paper's"]
    yield Table(header, rows)
    notes = []
    if first_training:
        tree = findings.speed["training"]
        notes.append(
            f"Training: whole updates on the same batches, the kinds in turns, medians; {tree['device']}, "
            f"{tree['threads']} threads, torch {tree['torch']}, {tree['precision']}."
        )
    if first_decoding:
        tree = findings.speed["decoding"]
        precisions = ", ".join(tree["precision"])
        notes.append(
            f"Decoding: the trained models translate the first {tree['sentences']:,} test sentences in turns, beam "
            f"{first_decoding['beam']}, medians; {tree['device']}, {precisions}. Ratios are of output tokens a "
            "second, because models that write longer translations need longer."
        )
    notes.append("The paper's were measured in TensorFlow 1.13; machine and batch are not known.")
    yield Paragraph(" ".join(notes))


def _decoding_rows(findings: Findings) -> dict[str, Tree]:
    """By kind: the row of the benchmark whose subject is the run of that kind."""
    tree = findings.speed.get("decoding", {"precision": [], "throughput": []})
    kinds = {f"{run['path']} {precision}": run["kind"] for run in findings.runs for precision in tree["precision"]}
    return {kinds[row["subject"]]: row for row in tree["throughput"] if row["subject"] in kinds}


def _curves(experiment: Experiment, findings: Findings) -> Iterator[Block]:
    curves = {name: points for name, points in findings.curves.items() if points}
    if not curves:
        return
    yield Heading("Learning curves on the development set")
    panels = {
        title: {
            run: [(point["update"], point[key]) for point in points if key in point] for run, points in curves.items()
        }
        for title, key in (("BLEU", "bleu"), ("loss (nats a token)", "loss"))
    }
    panels = {title: series for title, series in panels.items() if any(series.values())}
    path = plots.save(plots.curves(panels, xlabel="updates"), experiment.output / "figures" / "learning_curves")[0]
    yield Figure(path, "BLEU and loss of single checkpoints on the development set.")
    updates = sorted({point["update"] for points in curves.values() for point in points})
    shown = updates if len(updates) <= 12 else [updates[len(updates) * i // 12 - 1] for i in range(1, 13)]
    by_run = {run: {point["update"]: point.get("bleu") for point in points} for run, points in curves.items()}
    rows = [[f"{update:,}", *(_number(by_run[run].get(update), 1) for run in by_run)] for update in shown]
    yield Table(["updates", *by_run], rows)


def _attention(findings: Findings) -> Iterator[Block]:
    if not findings.attention:
        return
    yield Heading("What the heads do")
    rows = []
    for name, found in findings.attention.items():
        cells = []
        for site in ("encoder", "decoder", "cross"):
            values = found["sites"][site]
            cells += [f"{100 * values['sparsity']:.1f} %", f"{100 * values['null_rate']:.1f} %"]
            cells.append(_number(values["diversity"], 3))
        rows.append([name, *cells])
    measures = ("sparsity", "null rate", "diversity")
    header = ["run", *(f"{site} {measure}" for site in ("encoder", "decoder", "cross") for measure in measures)]
    yield Table(header, rows)
    yield Paragraph(
        "Sparsity: share of weights exactly 0 among those allowed. Null rate: share of queries whose whole row is 0. "
        "Diversity: Jensen–Shannon divergence of a layer's heads in nats. Definitions: docs/analysis.md. The paper's "
        "values of these were not found; it claims that ReLA is sparse, that its heads are the most diverse, and that "
        "some of them attend to nothing."
    )
    for seed, directory in findings.plots.items():
        for name, caption in (
            ("sparsity_by_layer", "Sparsity by layer; dots are single heads"),
            ("null_rate_by_layer", "Null rate by layer"),
            ("diversity_by_layer", "Head diversity by layer"),
        ):
            if (path := directory / f"{name}.png").is_file():
                yield Figure(path, f"{caption} (seed {seed}).")


def _alignment(experiment: Experiment, findings: Findings) -> Iterator[Block]:
    aligned = {name: found for name, found in findings.attention.items() if found["aer"]}
    yield Heading("Alignment error rate of the cross-attention")
    if not aligned:
        yield Paragraph("Not measured: no gold word links (`--gold SOURCE TARGET LINKS`).")
        return
    kinds = {run["name"]: run["kind"] for run in findings.runs}
    layers = max(len(found["aer"]["normal"]["best"]) for found in aligned.values())
    comparable = experiment.name == paper_results.AER_TASK and layers == 6  # as many as the paper's figure has
    for mode in _MODES:
        rows = []
        for name, found in aligned.items():
            for of in _OF:
                values = found["aer"][mode][of]
                rows.append([name, of, *(f"{value:.3f}" for value in values)])
                theirs = paper_results.AER[mode, of].get(kinds[name]) if comparable else None
                if theirs is not None and len(theirs) == len(values):
                    rows.append(["the paper's", of, *(f"{value:.3f}" for value in theirs)])
        yield Heading(f"{mode} attention", 3)
        yield Table(["run", "head", *(f"layer {layer}" for layer in range(layers))], rows, text_columns=2)
    text = next(iter(aligned.values()))["text"]
    note = f"Text: {text}. Best: the head of lowest error rate in the layer; average: links of the averaged heads."
    note += (
        " The paper's are read off its figure." if comparable else " The paper's figure is of another task and model."
    )
    yield Paragraph(note)
    for seed, directory in findings.plots.items():
        if (path := directory / "aer_by_layer.png").is_file():
            yield Figure(path, f"Alignment error rate by layer (seed {seed}).")


def _deviations(experiment: Experiment, findings: Findings) -> Iterator[str]:
    base = load_config(
        REPOSITORY / "configs/base.yaml",
        ["run_dir=r", "data.task=t", "data.source_language=a", "data.target_language=b"],
    )
    changed = [
        f"`{d.path}` {_setting(d.new)} (paper: {_setting(d.old)})"
        for d in diff_configs(base, own_configuration(experiment.runs[0]))
        if (d.path.split(".")[0] in ("model", "training", "decoding") or d.path in _DATA)
        and d.path not in ("model.attention", "training.seed", *_WRITTEN_DOWN, *_RELEASED_CODE)
    ]
    yield ("Settings other than the paper's: " + "; ".join(changed) + ".") if changed else "Settings are the paper's."
    yield from findings.differing
    missing = [kind for kind in ATTENTION_VARIANTS if kind not in experiment.kinds]
    if missing:
        yield f"Not run: {', '.join(missing)}."
    for run in findings.runs:
        if not run["finished"]:
            yield f"{run['name']}: training is not finished, it stands at update {run['updates']:,}."
        if not run["scores"]:
            yield f"{run['name']}: not translated yet."
    if len(experiment.seeds) == 1:
        yield "One seed: differences between kinds include the chance of one initialisation each."
    if experiment.name not in paper_results.BLEU:
        yield (
            "The authors' public files have no BLEU for this task."
            if experiment.name == paper_results.AER_TASK
            else "The paper has no figures for this task."
        )
    elif "rela-i" in experiment.kinds:
        yield "The authors' public files have no BLEU for ReLA-i."
    if all(baseline["kind"] != BASELINE for baseline in findings.runs):
        yield "Without a softmax run there is nothing to compare the others with."
    if experiment.skip:
        yield f"Left out on request: {', '.join(sorted(experiment.skip))}."


#: What of the data the paper gives a value for.
_DATA = ("data.vocabulary_size", "data.max_pairs_per_source")
#: Settings that decide what is written down, not what is learned.
_WRITTEN_DOWN = tuple(
    f"training.{key}"
    for key in (
        "log_every",
        "validate_every",
        "validation_decode_sentences",
        "keep_last_checkpoints",
        "keep_best_checkpoints",
        "device",
        "max_consecutive_nonfinite_updates",
    )
)
#: Where base.yaml has the usual and the task files the released code's choice.
_RELEASED_CODE = ("model.embedding_bias", "model.start", "training.loss_normalization")


def _how(experiment: Experiment, findings: Findings, journal: Journal) -> Iterator[Block]:
    yield Heading("How it was made")
    task = findings.task
    if task["counts"]:
        total, vocabulary = task["counts"]["total"], task["counts"]["vocabulary"]
        yield Paragraph(
            f"Data: {total['read']:,} pairs read, {total['kept']:,} kept; development set {task['counts']['dev']:,} "
            f"lines; {vocabulary['source']:,} and {vocabulary['target']:,} sub-words. Licence: {task['licence']}."
        )
    rows, machines = [], []
    for run in findings.runs:
        environment = run["environment"] or {}
        trained = journal.record(f"train {run['name']}")
        rows.append(
            [
                run["name"], run["path"], f"{run['parameters']:,}" if run["parameters"] else "–",
                f"{run['updates']:,}", str(run["averaged"]), _number(run["tokens_per_second"], 0),
                format_duration(trained.seconds) if trained else "–",
            ]
        )  # fmt: skip
        if environment:
            machines.append(
                f"{environment.get('ranks')} x {environment.get('device')}, {environment.get('threads')} threads, "
                f"torch {environment.get('torch')}, Python {environment.get('python')}"
            )
    header = ["run", "directory", "parameters", "updates", "averaged", "tokens/s", "trained in"]
    yield Table(header, rows, text_columns=2)
    yield Paragraph(
        f"Trained on: {'; '.join(dict.fromkeys(machines)) or 'not recorded'}. Tokens a second here is the median of "
        "the run's own log, whatever else the machine did at the time."
    )
    if records := journal.records():
        yield Heading("Commands", 3)
        yield Code([f"# {record.finished}, {format_duration(record.seconds)}\n{record.command}" for record in records])


def _interval(figures: Any) -> str:
    return "–" if figures is None else f"{figures['low']:.2f}–{figures['high']:.2f}"


def _p(figures: Any) -> str:
    return "–" if figures is None or figures["p"] is None else f"{figures['p']:.3f}"


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"


def _setting(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:,}" if isinstance(value, int) else str(value)
