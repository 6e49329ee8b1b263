"""The report of an experiment: our results beside the paper's, and what a reader needs to judge or repeat them."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path

from nmt_rela.analysis import plots
from nmt_rela.analysis.learning_curve import panels_of_runs
from nmt_rela.config.loader import diff_configs, load_config
from nmt_rela.metrics.translation import LABELS, format_score, metrics_of
from nmt_rela.reporting.pages import figure, number, setting, table, write_pages
from nmt_rela.reporting.run_summary import machine
from nmt_rela.reproduction import paper_results
from nmt_rela.reproduction.experiment import ATTENTION_VARIANTS, BASELINE, Experiment
from nmt_rela.reproduction.results import Tree, actual_config, collect_results
from nmt_rela.reproduction.steps import BENCHMARKS, Record, analysis_directory, read_records
from nmt_rela.utils.errors import ConfigError
from nmt_rela.utils.files import atomic_write
from nmt_rela.utils.progress import format_duration

#: Settings of the data that the paper states.
_DATA_SETTINGS = ("data.vocabulary_size", "data.max_pairs_per_source")
#: Settings that change what is logged and kept, not what is learned.
_LOGGING_SETTINGS = tuple(
    f"training.{name}"
    for name in (
        "log_every", "validate_every", "validation_decode_sentences", "keep_last_checkpoints",
        "keep_best_checkpoints", "device", "max_consecutive_nonfinite_updates",
    )
)  # fmt: skip
#: Settings for which the task configurations follow the released code and base.yaml does not.
_RELEASED_CODE = ("model.embedding_bias", "model.decoder_start", "training.loss_normalization")

_SCALE_NOTES = {
    "smoke": "**Smoke scale: tiny models, little text, a few updates.** The results show that every step works. They "
    "say nothing about attention or translation.",
    "small": "Small scale: a smaller model and less text than the paper's. Compare variants with each other only.",
}
_PAPER_NOTE = (
    "Every result comes from the runs listed below. The paper's results are those of its authors' public files; where "
    "they give none, the cell is empty (–)."
)


def write_report(experiment: Experiment) -> list[Path]:
    """Collect, draw and write ``results.json``, ``report.md`` and ``report.html``; their paths.

    Raises ConfigError when there is no run.
    """
    if not any(run.path.is_dir() for run in experiment.runs):
        raise ConfigError(f"--report: {experiment.output} holds no run; without --report the same command trains them")
    results = collect_results(experiment)
    task = results["task"]
    title = f"{task['title']}, {task['source']} to {task['target']}: softmax, sparse and rectified attention"
    text = "\n\n".join([f"# {title}", *_sections(experiment, results)]) + "\n"
    with atomic_write(experiment.output / "results.json") as stream:
        stream.write((json.dumps(results, indent=1, ensure_ascii=False) + "\n").encode("utf-8"))
    return [experiment.output / "results.json", *write_pages(text, directory=experiment.output, name="report")]


def _sections(experiment: Experiment, results: Tree) -> Iterator[str]:
    yield _SCALE_NOTES.get(experiment.scale, _PAPER_NOTE)
    yield from _scores(experiment, results)
    yield from _speed(experiment, results)
    yield from _curves(experiment, results)
    yield from _attention(experiment, results)
    yield from _alignment(experiment, results)
    yield "## Differences from the paper, and what is missing"
    yield "\n".join(f"* {line}" for line in _deviations(experiment, results))
    yield from _provenance(results, read_records(experiment.records))


def _scores(experiment: Experiment, results: Tree) -> Iterator[str]:
    yield "## Translation quality"
    paper = paper_results.BLEU.get(experiment.name, {})
    scores = [score for run in results["runs"] for score in run["scores"].values()]
    names = metrics_of(scores) or experiment.config.evaluation.metrics
    header = ["attention", "seed", "updates"]
    for name in names:
        header += [LABELS[name]] if name == "comet" else [LABELS[name], "95 % interval", "p"]
    header += ["length", "paper's BLEU"]
    for test in results["task"]["tests"]:
        rows = []
        for run in results["runs"]:
            score = run["scores"].get(test)
            start = [run["attention"], str(run["seed"]), f"{run['updates']:,}"]
            if score is None:
                rows.append([*start, *["–"] * (len(header) - len(start))])
                continue
            row = list(start)
            for name in names:
                row.append(format_score(name, score))
                if name != "comet":
                    interval = results["significance"].get(test, {}).get(run["name"], {}).get(name)
                    row.append("–" if interval is None else f"{interval['low']:.2f}–{interval['high']:.2f}")
                    row.append(number(interval and interval["p"], 3))
            rows.append([*row, number(score["length_ratio"], 3), number(paper.get(run["attention"]), 1)])
        yield f"### {test}"
        yield table(header, rows)
        if len(experiment.seeds) > 1:
            yield _over_seeds(test, results, names)
    signatures = dict.fromkeys(
        score[key] for score in scores for name in names if (key := f"{name}_signature") in score
    )
    if signatures:
        yield "Signatures: " + ", ".join(f"`{signature}`" for signature in signatures) + "."
    yield (
        "Intervals and p are sacreBLEU's bootstrap over 1,000 resampled test sets. p is the probability that "
        "resampling alone gives a difference to the softmax run of the same seed as large as the observed one. It does "
        "not cover the variation between seeds. Length is words of the translation per word of the reference. The "
        'scored models are named below under "checkpoint" and decoded as the configuration says.'
        + (" Of TER, lower is better." if "ter" in names else "")
    )


def _over_seeds(test: str, results: Tree, names: Sequence[str]) -> str:
    """Means over runs that differ in the seed only; runs of other settings have a row of their own."""
    groups: dict[tuple[str, str], list[Tree]] = {}
    for run in results["runs"]:
        if test in run["scores"]:
            groups.setdefault((run["attention"], run["other_settings"]), []).append(run)
    variants = [variant for variant, _ in groups]
    rows = []
    for (variant, _), runs in groups.items():
        label = variant if variants.count(variant) == 1 else f"{variant} ({', '.join(run['name'] for run in runs)})"
        rows.append([label, str(len(runs))])
        for name in names:
            values = [run["scores"][test][name] for run in runs if name in run["scores"][test]]
            mean = statistics.mean(values) if values else None
            deviation = statistics.stdev(values) if len(values) > 1 else None
            rows[-1] += [format_score(name, {name: mean}), format_score(name, {name: deviation})]
    columns = [column for name in names for column in (f"mean {LABELS[name]}", "standard deviation")]
    return table(["attention", "seeds", *columns], rows)


def _speed(experiment: Experiment, results: Tree) -> Iterator[str]:
    first = results["runs"][0]["attention"]
    yield f"## Speed relative to {first}"
    speed = results["speed"]
    training = {
        row["attention"]: (row["tokens_per_second"], row["lowest"], row["highest"])
        for row in speed.get("training", {}).get("rows", [])
    }
    decoding: dict[str, tuple[float, float, float]] = {}
    for row in speed.get("decoding", {}).get("throughput", []):
        path = row["subject"].rpartition(" ")[0]  # the precision follows
        median, seconds = row["tokens_per_second"], row["rounds"]
        middle = statistics.median(seconds)
        spread = (median, median * middle / max(seconds), median * middle / min(seconds))
        decoding |= {run["attention"]: spread for run in results["runs"] if run["path"] == path}
    if not training and not decoding:
        reason = ": the benchmarks are part of a checkout (scripts/benchmarks), not of an installed package"
        yield f"Not measured{'' if BENCHMARKS.is_dir() else reason}."
        return
    rows = []
    for variant in experiment.variants:
        row = [variant]
        for ours, theirs in ((training, paper_results.TRAINING_SPEED), (decoding, paper_results.DECODING_SPEED)):
            row += _with_ratio(ours, variant)
            row.append(number(theirs.get(variant) if first == BASELINE else None, 2))
        rows.append(row)
    comparison = ["ratio", "paper's"]
    yield table(["attention", "training, tokens/s", *comparison, "decoding, tokens/s", *comparison], rows)
    notes = []
    if training:
        tree = speed["training"]
        notes.append(
            f"Training: whole updates on the same batches, variants interleaved, medians; {tree['device']}, "
            f"{tree['threads']} threads, torch {tree['torch']}, {tree['precision']}."
        )
    if decoding:
        tree = speed["decoding"]
        notes.append(
            f"Decoding: the trained models translate the first {tree['sentences']:,} test sentences, interleaved, "
            f"beam {experiment.config.decoding.beam_size}, medians; {tree['device']}, {', '.join(tree['precision'])}. "
            "Ratios are of output tokens per second, because models that write longer translations take longer."
        )
    notes.append("The paper's were measured in TensorFlow 1.13; machine and batch size are unknown.")
    yield " ".join(notes)


def _with_ratio(speeds: dict[str, tuple[float, float, float]], variant: str) -> list[str]:
    """The speed of a variant, and its ratio to the first one with the spread over the rounds.

    Where each of the two was faster in some round, and the rounds differ by more than a tenth, there is no ratio.
    """
    if variant not in speeds:
        return ["–", "–"]
    first = next(iter(speeds))
    (median, low, high), (base, base_low, base_high) = speeds[variant], speeds[first]
    ratio = f"{median / base:.2f}"
    if variant != first:
        lowest, highest = low / base_high, high / base_low
        unclear = lowest < 1 < highest and highest - lowest > max(abs(median / base - 1), 0.1)
        ratio = "not measurable" if unclear else f"{ratio} ({lowest:.2f}–{highest:.2f})"
    return [number(median, 0), ratio]


def _curves(experiment: Experiment, results: Tree) -> Iterator[str]:
    curves = {name: points for name, points in results["curves"].items() if points}
    if not curves:
        return
    yield "## Learning curves on the development set"
    panels = panels_of_runs(curves)
    path = plots.save(plots.curves(panels, xlabel="updates"), experiment.output / "figures" / "learning_curves")[0]
    yield figure(path, experiment.output, "Loss and quality of single checkpoints on the development set.")
    updates = sorted({point["update"] for points in curves.values() for point in points})
    shown = updates if len(updates) <= 12 else [updates[len(updates) * i // 12 - 1] for i in range(1, 13)]
    metric = (*metrics_of(point for points in curves.values() for point in points), "loss")[0]
    by_run = {run: {point["update"]: point for point in points} for run, points in curves.items()}
    rows = [[f"{update:,}", *(format_score(metric, by_run[run].get(update, {})) for run in by_run)] for update in shown]
    yield f"{LABELS.get(metric, 'Loss')} of single checkpoints:"
    yield table(["updates", *by_run], rows)


def _attention(experiment: Experiment, results: Tree) -> Iterator[str]:
    if not results["attention"]:
        return
    yield "## Attention of the heads"
    sites = ("encoder", "decoder", "cross")
    rows = []
    for name, found in results["attention"].items():
        cells = []
        for site in sites:
            values = found["sites"][site]
            cells += [f"{100 * values['sparsity']:.1f} %", f"{100 * values['null_rate']:.1f} %"]
            cells.append(number(values["diversity"], 3))
        rows.append([name, *cells])
    measures = ("sparsity", "null rate", "diversity")
    yield table(["run", *(f"{site} {measure}" for site in sites for measure in measures)], rows)
    yield (
        "Sparsity: fraction of the unmasked weights that are exactly 0. Null rate: fraction of the queries whose row "
        "is all 0. Diversity: Jensen–Shannon divergence of the heads of a layer, in nats. docs/analysis.md defines "
        "them. The paper's values were not found. It claims that ReLA is sparse, that its heads are the most diverse, "
        "and that some of them attend to nothing."
    )
    for seed in experiment.seeds:
        for name, caption in (
            ("sparsity_by_layer", "Sparsity by layer; dots are single heads"),
            ("null_rate_by_layer", "Null rate by layer"),
            ("diversity_by_layer", "Head diversity by layer"),
        ):
            if (path := analysis_directory(experiment, seed) / "plots" / f"{name}.png").is_file():
                yield figure(path, experiment.output, f"{caption} (seed {seed}).")


def _alignment(experiment: Experiment, results: Tree) -> Iterator[str]:
    aligned = {name: found for name, found in results["attention"].items() if found["aer"]}
    yield "## Alignment error rate of the cross-attention"
    if not aligned:
        yield "Not measured: no gold word alignments (`--gold SOURCE TARGET LINKS`)."
        return
    variants = {run["name"]: run["attention"] for run in results["runs"]}
    layers = max(len(found["aer"]["normal"]["best"]) for found in aligned.values())
    comparable = experiment.name == paper_results.AER_TASK and layers == 6  # as in the paper's figure
    for mode in ("normal", "shifted"):
        rows = []
        for name, found in aligned.items():
            for head in ("best", "average"):
                values = found["aer"][mode][head]
                rows.append([name, head, *(f"{value:.3f}" for value in values)])
                theirs = paper_results.AER[mode, head].get(variants[name]) if comparable else None
                if theirs is not None and len(theirs) == len(values):
                    rows.append(["the paper's", head, *(f"{value:.3f}" for value in theirs)])
        yield f"### {mode} attention"
        yield table(["run", "head", *(f"layer {layer}" for layer in range(layers))], rows, text_columns=2)
    yield (
        f"Text: {next(iter(aligned.values()))['text']}. Best: the head of lowest error rate in the layer; average: "
        "links of the averaged heads. "
        + ("The paper's are read off its figure." if comparable else "The paper's figure is of another task and model.")
    )
    for seed in experiment.seeds:
        if (path := analysis_directory(experiment, seed) / "plots" / "aer_by_layer.png").is_file():
            yield figure(path, experiment.output, f"Alignment error rate by layer (seed {seed}).")


def _deviations(experiment: Experiment, results: Tree) -> Iterator[str]:
    unset = ["run_dir=r", "data.task=t", "data.source_language=a", "data.target_language=b"]
    base = load_config("base", unset)
    ignored = ("model.attention", "training.seed", *_LOGGING_SETTINGS, *_RELEASED_CODE)
    changed = [
        f"`{change.path}` {setting(change.new)} (paper: {setting(change.old)})"
        for change in diff_configs(base, actual_config(experiment.runs[0]))
        if change.path not in ignored
        and (change.path.split(".")[0] in ("model", "training", "decoding") or change.path in _DATA_SETTINGS)
    ]
    yield ("Settings other than the paper's: " + "; ".join(changed) + ".") if changed else "Settings are the paper's."
    yield from results["settings_that_differ"]
    missing = [variant for variant in ATTENTION_VARIANTS if variant not in experiment.variants]
    if missing:
        yield f"Not run: {', '.join(missing)}."
    for run in results["runs"]:
        if not run["finished"]:
            yield f"{run['name']}: training is not finished; the newest checkpoint is of update {run['updates']:,}."
        if not run["scores"]:
            yield f"{run['name']}: not translated yet."
    if len(experiment.seeds) == 1:
        yield "One seed: differences between variants include the variation between initializations."
    if experiment.name == paper_results.AER_TASK:
        yield "The authors' public files have no BLEU for this task."
    elif experiment.name not in paper_results.BLEU:
        yield "The paper has no results for this task."
    elif "rela-i" in experiment.variants:
        yield "The authors' public files have no BLEU for ReLA-i."
    if BASELINE not in experiment.variants:
        yield "Without a softmax run there is no baseline."
    if experiment.skip:
        yield f"Left out on request: {', '.join(sorted(experiment.skip))}."


def _provenance(results: Tree, records: dict[str, Record]) -> Iterator[str]:
    yield "## Data, runs and commands"
    counts = results["task"]["counts"]
    if counts:
        total, vocabulary = counts["total"], counts["vocabulary"]
        yield (
            f"Data: {total['read']:,} pairs read, {total['kept']:,} kept; development set {counts['dev']:,} lines; "
            f"{vocabulary['source']:,} and {vocabulary['target']:,} sub-words. Licence: {results['task']['licence']}."
        )
    rows, machines = [], []
    for run in results["runs"]:
        record = records.get(f"train {run['name']}")
        rows.append(
            [
                run["name"], run["path"], number(run["parameters"], 0), f"{run['updates']:,}", run["checkpoint"],
                number(run["tokens_per_second"], 0), format_duration(record["seconds"]) if record else "–",
            ]
        )  # fmt: skip
        if environment := run["environment"]:
            machines.append(machine(environment))
    header = ["run", "directory", "parameters", "updates", "checkpoint", "tokens/s", "trained in"]
    yield table(header, rows, text_columns=2)
    yield (
        f"Trained on: {'; '.join(dict.fromkeys(machines)) or 'not recorded'}. Tokens/s is the median of the run's own "
        "log. Trained in: the attempt that finished, without earlier interrupted ones."
    )
    if records:
        lines = [
            f"# {record['finished']}, {format_duration(record['seconds'])}\n{record['command']}"
            for record in records.values()
        ]
        yield "### Commands"
        yield "\n".join(["```text", *lines, "```"])
