#!/usr/bin/env python3
"""What `nmt-analyze` does not measure of the attention of runs: row mass by length, weak weights, dead keys, scale.

    scripts/tools/attention_probe.py runs/a runs/b --to NAME [--sentences 300] [--plot FILE.png]
    scripts/tools/attention_probe.py runs/a --untrained softmax,rela-g --to NAME [...]

The runs read the start of their development set with its reference translation. ``--untrained`` draws models of some
attentions instead, otherwise with the settings of the run. The numbers are kept in docs/measurements/NAME, and
training_records.py makes the table of them. ``--plot`` draws the scale of the attention's branch.

Definitions, per layer:

* mass: mean sum of a row, all heads together, by the number of keys that the query sees;
* mass spread: how far a head's row sums lie from the mean of its rows that see as many keys (root mean square), over
  the root mean square of these means; averaged over heads with any weight;
* effective keys: exp(entropy) of a row divided by its sum, averaged over rows that are not null;
* weak weights: the fraction of a row's sum in weights below a tenth of its largest, averaged over the same rows;
* null rows: rows without a weight;
* dead keys: keys of a head that no query of the sentence has a weight for. Where a weight of 0 has no gradient (all but
  softmax), their scores have none;
* head scale: root mean square of the concatenated heads, before the norm of ReLA;
* hard gates: how many gates σ(a z) of ReLA-g are within 0.02 of 0 or 1;
* branch: root mean square of what the attention adds, over that of the residual stream it is added to.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nmt_rela.analysis.plots import by_layer, save
from nmt_rela.analysis.teacher_forcing import TeacherForcedBatch, encode_pairs, teacher_forced_pass
from nmt_rela.checkpoints.run_directory import RunDirectory, build_model
from nmt_rela.commands import cli
from nmt_rela.config.loader import override_config
from nmt_rela.metrics.attention_sparsity import null_rows
from nmt_rela.models.layers import DecoderLayer, EncoderLayer, SublayerConnection
from nmt_rela.models.transformer import ATTENTION_SITES, Transformer
from nmt_rela.preparation.pipeline import load_prepared
from nmt_rela.reporting.run_summary import summarize
from nmt_rela.utils.files import read_json
from nmt_rela.utils.text import read_parallel

MEASUREMENTS = Path(__file__).resolve().parents[2] / "docs/measurements"
#: Numbers of visible keys, first and last, that row masses are grouped by.
LENGTHS = ((1, 4), (5, 8), (9, 16), (17, 32), (33, 64), (65, 128), (129, 100_000))
#: A weight below this fraction of the largest of its row is weak.
WEAK = 0.1
#: A gate σ(x) with |x| above this is hard.
HARD = 4.0


class LayerProbe:
    """Sums over the valid queries of one attention layer."""

    def __init__(self, gate: Tensor | None) -> None:
        self.gate = gate  # of ReLA-g, [width]
        self.sums: dict[str, float] = {}
        self.row_masses: list[Tensor] = []
        self.visible: list[Tensor] = []
        self.is_query = torch.empty(0)
        self.heads = torch.empty(0)

    def add(self, name: str, value: Tensor, count: Tensor) -> None:
        """Add to a sum and to the count that divides it."""
        for key, number in ((name, value), (f"{name}/count", count)):
            self.sums[key] = self.sums.get(key, 0.0) + float(number)

    def add_weights(self, weights: Tensor, valid: Tensor) -> None:
        """``weights`` [batch, heads, queries, keys] where ``valid`` [batch, queries, keys]."""
        heads = weights.shape[1]
        self.is_query = valid.any(-1)  # [batch, queries]
        null = null_rows(weights, valid)  # [batch, heads, queries]
        mass = weights.sum(-1)
        rows = weights / mass.masked_fill(mass == 0, 1)[..., None]
        present = self.is_query[:, None] & ~null
        weak = torch.where(rows < WEAK * rows.amax(-1, keepdim=True), rows, 0.0).sum(-1)
        self.add("effective_keys", (torch.special.entr(rows).sum(-1).exp() * present).sum(), present.sum())
        self.add("weak_weights", (weak * present).sum(), present.sum())
        self.add("null_rows", null.sum(), self.is_query.sum() * heads)
        is_key = valid.any(1)  # [batch, keys]
        # The rows of padded queries are not 0: only keys are masked.
        dead = ((weights * self.is_query[:, None, :, None]).sum(2) == 0) & is_key[:, None]  # [batch, heads, keys]
        self.add("dead_keys", dead.sum(), is_key.sum() * heads)
        self.row_masses.append(mass.transpose(1, 2)[self.is_query])  # [rows, heads]
        self.visible.append(valid.sum(-1)[self.is_query])

    def keep_heads(self, _: nn.Module, inputs: tuple[Tensor]) -> None:
        """A hook before the norm, which may overwrite the heads [batch, queries, width]; `add_branch` adds them."""
        self.heads = inputs[0].clone()

    def add_branch(self, residual: Tensor, update: Tensor) -> None:
        """The residual stream and what is added to it, [batch, queries, width], of the batch added last."""
        for name, x in (("residual", residual), ("update", update), ("heads", self.heads)):
            squares = x.float()[self.is_query].square()
            self.add(name, squares.sum(), torch.tensor(squares.numel()))
        if self.gate is not None:
            hard = (self.heads[self.is_query] * self.gate).abs() > HARD
            self.add("hard_gates", hard.sum(), torch.tensor(hard.numel()))

    def mean(self, name: str) -> float:
        """A sum divided by its count."""
        return self.sums[name] / max(self.sums[f"{name}/count"], 1)

    def result(self) -> dict[str, Any]:
        """The measures of the layer."""
        masses, visible = torch.cat(self.row_masses), torch.cat(self.visible)  # [rows, heads], [rows]
        means = torch.empty_like(masses)  # of the rows that see as many keys
        for count in visible.unique():
            means[visible == count] = masses[visible == count].mean(0)
        scale = means.square().mean(0).sqrt()
        spread = ((masses - means).square().mean(0).sqrt() / scale)[scale > 0]
        by_length = {}
        for low, high in LENGTHS:
            among = (visible >= low) & (visible <= high)
            if among.any():
                by_length[f"{low}-{high}"] = _rounded(float(masses[among].mean()))
        return {
            "mass": _rounded(float(masses.mean())),
            "mass_by_visible_keys": by_length,
            "mass_spread": _rounded(float(spread.mean())) if len(spread) else None,
            **{
                name: _rounded(self.mean(name)) for name in ("effective_keys", "weak_weights", "null_rows", "dead_keys")
            },
            "head_scale": _rounded(self.mean("heads") ** 0.5),
            "hard_gates": _rounded(self.mean("hard_gates")) if "hard_gates" in self.sums else None,
            "branch": _rounded((self.mean("update") / self.mean("residual")) ** 0.5),
        }


def _rounded(value: float) -> float:
    """Without the rounding of float32, by which sums of 1 differ."""
    return round(value, 5)


def probe(run: Path, *, sentences: int, untrained: str = "", change: str = "") -> dict[str, Any]:
    """What is measured of one run, or of a new model with the attention ``untrained``, by site and layer."""
    directory = RunDirectory(run)
    config, tokenizers = directory.config(), directory.load_tokenizers()
    files = load_prepared(config.data).dev
    lines = list(read_parallel(files.source, files.target))[:sentences]
    if untrained:
        config = override_config(config, [f"model.attention={untrained}"])
        torch.manual_seed(config.training.seed)
        model, checkpoint = build_model(config.model, tokenizers), "untrained"
    else:
        model = directory.load_model()
        checkpoint = summarize(directory, directory.checkpoint(), config.training)["checkpoint"]
    model.eval()
    attentions = model.attention_modules()
    probes = {key: LayerProbe(getattr(each.output_norm, "gate", None)) for key, each in attentions.items()}

    def consume(batch: TeacherForcedBatch, site: str, layer: int, weights: Tensor) -> None:
        probes[site, layer].add_weights(weights, batch.valid(site))

    for key, connection in attention_residuals(model):
        attentions[key].output_norm.register_forward_pre_hook(probes[key].keep_heads)
        connection.register_forward_pre_hook(
            lambda _, inputs, found=probes[key]: found.add_branch(inputs[0].sums, inputs[1])
        )
    teacher_forced_pass(model, encode_pairs(lines, tokenizers), [consume])
    found = {
        "attention": str(config.model.attention),
        "checkpoint": checkpoint,
        "date": date.today().isoformat(),
        "torch": str(torch.__version__),
        "sentences": len(lines),
        "layers": [{"site": site, "layer": layer, **each.result()} for (site, layer), each in probes.items()],
    }
    return {"change": change, **found} if change else found


def attention_residuals(model: Transformer) -> Iterator[tuple[tuple[str, int], SublayerConnection]]:
    """The residual sum behind the attention of each (site, layer)."""
    for layer, encoder in enumerate(model.encoder):
        assert isinstance(encoder, EncoderLayer)
        yield ("encoder", layer), encoder.self_attention_residual
    for layer, decoder in enumerate(model.decoder):
        assert isinstance(decoder, DecoderLayer)
        yield ("decoder", layer), decoder.self_attention_residual
        yield ("cross", layer), decoder.cross_attention_residual


def main() -> int:
    """The script; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--untrained", default="", metavar="A,B", help="new models of these attentions")
    parser.add_argument(
        "--sentences", type=cli.number_from(1), default=300, metavar="N", help="of the development set (default 300)"
    )
    parser.add_argument("--to", required=True, metavar="NAME", help="a directory in docs/measurements")
    parser.add_argument("--change", default="", metavar="TEXT", help="how the code differed from that of the package")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="the scale of the branch by site and layer")
    options = parser.parse_args()
    runs, attentions = options.runs, options.untrained.split(",") if options.untrained else []
    directory = MEASUREMENTS / options.to
    present = [read_json(path) for path in directory.glob("*.json")]
    if not all(isinstance(record, dict) and "layers" in record for record in present):
        parser.error(f"--to {options.to}: holds records of another kind")
    if options.plot and options.plot.suffix not in (".png", ".svg", ".pdf"):
        parser.error(f"--plot {options.plot}: accepted: names that end in .png, .svg or .pdf")
    if attentions and len(runs) > 1:
        parser.error("--untrained takes the settings of one run")
    if len({run.name for run in runs}) < len(runs):
        parser.error("the names of the runs, under which their numbers are kept, must differ")
    measure = partial(probe, sentences=options.sentences, change=options.change)
    if attentions:
        found = {f"{each}-untrained": measure(runs[0], untrained=each) for each in attentions}
    else:
        found = {run.name: measure(run) for run in runs}
    for name, result in found.items():
        path = directory / f"{name}.json"
        directory.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if options.plot:
        panels: dict[str, dict[str, list[float]]] = {
            site: {
                run: [layer["branch"] for layer in result["layers"] if layer["site"] == site]
                for run, result in found.items()
            }
            for site in ATTENTION_SITES
        }
        drawn = by_layer(panels, ylabel="attention / residual stream")
        save(drawn, options.plot.with_suffix(""), [options.plot.suffix[1:]])
    return 0


if __name__ == "__main__":
    sys.exit(cli.run("attention_probe", lambda _: main()))
