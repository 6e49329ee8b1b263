"""Plots are drawn from arrays, say what they show, and are written where asked."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nmt_rela.analysis import plots, writers
from nmt_rela.generation.heatmap import heatmap, readable
from nmt_rela.utils.errors import UserError

matplotlib = pytest.importorskip("matplotlib", reason="matplotlib is not installed (the extra 'analysis')")

QUERIES, KEYS = ["das", "Haus", "‹end›"], ["the", "$house$", "‹end›", "."]


def weights() -> np.ndarray:
    made = np.zeros((3, 3, 4))
    made[0, 0, 1], made[0, 1, 2], made[2] = 0.5, 1.5, 0.25
    return made


def test_heatmap_has_one_panel_per_head_with_its_maximum_and_leaves_zeros_blank() -> None:
    figure = heatmap(QUERIES, KEYS, weights(), panels=["head 0", "head 1", "head 2"], title="cross", columns=2)
    axes = [axis for axis in figure.axes if axis.get_visible()]
    assert [axis.get_xlabel() for axis in axes] == ["head 0 · max 1.5", "head 1 · all zero", "head 2 · max 0.25"]
    shown = axes[0].images[0].get_array()
    assert shown is not None
    assert np.ma.getmaskarray(shown).tolist() == (weights()[0] == 0).tolist()
    assert [label.get_text() for label in axes[0].get_yticklabels()] == QUERIES
    assert [label.get_text() for label in axes[0].get_xticklabels()] == ["the", "$house$", "‹end›", "."]


def test_dollar_signs_in_names_are_no_formulas(tmp_path: Path) -> None:
    figure = heatmap(QUERIES, KEYS, weights(), panels=["a", "b", "c"], title=r"cost$\bad$: cross-attention")
    curves = plots.curves({"BLEU": {r"cost$\bad$": [(1, 2.0), (2, 3.0)]}}, xlabel="updates")
    for number, drawn in enumerate((figure, curves)):
        assert plots.save(drawn, tmp_path / str(number))[0].stat().st_size > 0


def test_names_of_runs_have_different_files() -> None:
    names = ["a b", "a_b", "a%20b", "a/b", "Übung-1.2"]
    assert len({writers.file_name(name) for name in names}) == len(names)
    assert writers.file_name("Übung-1.2") == "Übung-1.2"


def test_heatmap_strikes_null_rows_through() -> None:
    figure = heatmap(QUERIES, KEYS, weights(), panels=["a", "b", "c"])
    assert [len(axis.lines) for axis in figure.axes[:3]] == [1, 3, 0]
    assert list(figure.axes[0].lines[0].get_ydata()) == [2, 2]


def test_heatmap_refuses_weights_of_another_shape() -> None:
    with pytest.raises(ValueError, match=r"weights have shape \(3, 3, 4\); expected \(2, 3, 4\)"):
        heatmap(QUERIES, KEYS, weights(), panels=["a", "b"])


def test_panels_by_layer_share_a_scale_that_holds_the_largest_value_of_any() -> None:
    figure = plots.by_layer({"encoder": {"a": [0.25, 0.5]}, "cross": {"a": [2.0, 1.0]}}, ylabel="diversity")
    for axis in figure.axes[:2]:
        low, high = axis.get_ylim()
        assert low == 0
        assert high >= 2


def test_curves_by_layer_have_gaps_where_nothing_is_defined() -> None:
    panels = {"encoder": {"rela": [0.1, None, 0.3]}, "cross": {"rela": [0.2, 0.4], "softmax": [0.0, 0.0]}}
    figure = plots.by_layer(
        panels,
        ylabel="sparsity",
        dashed={"cross": {"rela": [0.3, 0.5]}},
        dots={"cross": {"rela": [[0.1, 0.3], [0.2, None]]}},
        notes=("best head", "average"),
    )
    first, second = figure.axes
    assert np.isnan(first.lines[0].get_ydata()).tolist() == [False, True, False]
    assert len(second.lines) == 3
    assert len(second.collections) == 2
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["rela", "softmax", "best head", "average"]


def test_curves_are_scaled_by_what_comes_after_the_start() -> None:
    losses = [(100.0 * step, 100.0 if step == 0 else 3.0 - 0.1 * step) for step in range(16)]
    figure = plots.curves({"loss": {"a": losses, "b": losses[1:4]}}, xlabel="updates")
    (axis,) = figure.axes
    assert [len(line.get_xdata()) for line in axis.get_lines()] == [16, 3]
    assert axis.get_xlim()[0] == 0
    assert 0 < axis.get_ylim()[0] < 1.5, "the lowest is shown"
    figure = plots.curves({"loss": {"a": losses}}, xlabel="updates")
    assert 2.6 < figure.axes[0].get_ylim()[1] < 3, "the first loss is not"


def test_histogram_counts_heads() -> None:
    figure = plots.histogram({"cross": {"a": [0.0, 0.01, 1.0], "b": [0.5]}}, xlabel="null rate", bins=4)
    assert sum(patch.get_height() for patch in figure.axes[0].patches) == 4


def test_head_grid_writes_every_number() -> None:
    figure = plots.head_grid({"cross": [[0.1, -0.2], [0.0, 0.4]]}, label="rise of the loss")
    assert [text.get_text() for text in figure.axes[0].texts] == ["+0.100", "-0.200", "+0.000", "+0.400"]


def test_figures_are_written_in_every_requested_format(tmp_path: Path) -> None:
    figure = plots.head_grid({"cross": [[0.1]]}, label="")
    written = plots.save(figure, tmp_path / "new" / "run.v1", ("png", "svg"))
    assert [path.name for path in written] == ["run.v1.png", "run.v1.svg"]
    assert written[0].read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in written[1].read_bytes()


def test_labels_of_subwords_are_readable() -> None:
    assert readable(["<s>", "▁old", "er", "▁", "▁house", "</s>"]) == [
        "‹start›",
        "old",
        "·er",
        "▁",
        "house",
        "‹end›",
    ]
    assert readable(["un", "▁known"]) == ["un", "known"]


def test_without_matplotlib_the_error_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real_import = builtins.__import__

    def refuse(name: str, *arguments: Any, **options: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real_import(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(UserError, match=r"pip install 'nmt_rela\[analysis\]'"):
        heatmap(QUERIES, KEYS, weights(), panels=["a", "b", "c"])
