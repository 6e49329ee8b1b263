"""Plots of attention, made from arrays. matplotlib is imported when the first plot is drawn.

Every function returns a new ``matplotlib.figure.Figure`` outside pyplot, so that neither global state nor a display is
needed. Layers and heads count from 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nmt_rela.generation.heatmap import INK, MUTED, RULE, colour_map, grid
from nmt_rela.utils.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Okabe and Ito's colours, which colour-blind readers can distinguish. They repeat after five runs.
RUN_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#5f4b00")
MARKERS = ("o", "s", "^", "D", "v")

Series = Mapping[str, Sequence[float | None]]


def save(figure: Figure, stem: Path, formats: Sequence[str] = ("png",)) -> list[Path]:
    """Write ``stem.png``, ``stem.svg``, … (any of png, svg, pdf), create missing directories and return the paths."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    paths = [stem.with_name(f"{stem.name}.{suffix}") for suffix in formats]
    from matplotlib.text import Text

    for text in figure.findobj(Text):  # the name of a run may hold dollar signs
        text.set_parse_math(False)
    for path in paths:
        with atomic_write(path) as stream:
            figure.savefig(stream, format=path.suffix[1:], dpi=160, facecolor="white")
    return paths


def by_layer(
    panels: Mapping[str, Series],
    *,
    ylabel: str,
    dashed: Mapping[str, Series] | None = None,
    dots: Mapping[str, Mapping[str, Sequence[Sequence[float | None]]]] | None = None,
    xlabel: str = "layer",
    ylim: tuple[float | None, float | None] = (0, None),
    notes: tuple[str, str] = ("", ""),
) -> Figure:
    """Lines over layers, one panel per title and one line per run.

    ``panels`` maps title → run → one number per layer (None: not defined). ``dashed`` has second lines of the same
    runs, ``dots`` numbers of single heads: title → run → layer → head. ``notes`` labels solid and dashed lines.
    """
    figure, axes, runs = _panels(panels, xlabel, ylabel, width=2.9, height=2.5, sharey=True)
    for axis, (title, series) in zip(axes, panels.items(), strict=True):
        layers = 0
        for run, values in series.items():
            style = _run_style(runs.index(run))
            layers = max(layers, len(values))
            axis.plot(range(len(values)), _gaps(values), **style)
            if dashed and run in dashed.get(title, {}):
                second = _gaps(dashed[title][run])
                axis.plot(range(len(second)), second, **style | {"linestyle": (0, (3, 2)), "markerfacecolor": "white"})
            for layer, heads in enumerate((dots or {}).get(title, {}).get(run, ())):
                shift = 0.12 * (runs.index(run) - (len(runs) - 1) / 2)
                axis.scatter([layer + shift] * len(heads), _gaps(heads), s=7, color=style["color"], alpha=0.35, lw=0)
        axis.set_xticks(range(layers))
        axis.set_xlim(-0.4, max(layers - 0.6, 0.4))
    axes[0].set_ylim(*ylim)  # shared: before all panels are drawn it would end at the values of the first
    if len(runs) > 1 or any(notes):
        _legend(figure, runs, notes)
    return figure


def curves(panels: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]], *, xlabel: str) -> Figure:
    """Curves of any length, one panel per title and one line per run: title → run → points (x, y).

    The first quarter of a long curve does not set the scale, because early losses would flatten the rest.
    """
    columns = len(panels) if len(panels) <= 3 else -(-len(panels) // 2)
    figure, axes, runs = _panels(panels, xlabel, "", width=4.2, height=3.0, columns=columns)
    for axis, series in zip(axes, panels.values(), strict=True):
        for run, points in series.items():
            style = _run_style(runs.index(run)) | {"markersize": 3 if len(points) <= 40 else 0, "clip_on": True}
            axis.plot([x for x, _ in points], [y for _, y in points], **style)
        late = [y for points in series.values() for _, y in points[len(points) // 8 * 2 :]]
        if late:
            low, high = min(late), max(late)
            room = 0.06 * (high - low) or 0.5
            axis.set_ylim(low - room, high + room)
            axis.set_xlim(left=0)
    if len(runs) > 1:
        _legend(figure, runs, ("", ""))
    return figure


def histogram(panels: Mapping[str, Mapping[str, Sequence[float]]], *, xlabel: str, bins: int = 20) -> Figure:
    """Histogram of rates between 0 and 1: title → run → one rate per head."""
    figure, axes, runs = _panels(panels, xlabel, "heads", width=2.9, height=2.2)
    for axis, series in zip(axes, panels.values(), strict=True):
        colours = [RUN_COLOURS[runs.index(run) % len(RUN_COLOURS)] for run in series]
        axis.hist(list(series.values()), bins=list(np.linspace(0, 1, bins + 1)), color=colours, rwidth=0.9)
        axis.set_xlim(0, 1)
        axis.yaxis.get_major_locator().set_params(integer=True)
    if len(runs) > 1:
        _legend(figure, runs, ("", ""), lines=False)
    return figure


def head_grid(panels: Mapping[str, npt.ArrayLike], *, label: str) -> Figure:
    """One number per head, layers down and heads across, one panel per title; cells are shaded by absolute value."""
    matrices = {title: np.asarray(values, dtype=float) for title, values in panels.items()}
    rows, columns = (max(matrix.shape[side] for matrix in matrices.values()) for side in (0, 1))
    figure, axes = grid(1, len(panels), width=0.46 * columns + 0.4, height=0.3 * rows + 0.5, margin=0.8)
    peak = max((float(np.abs(matrix).max()) for matrix in matrices.values()), default=0.0) or 1.0
    for axis, (title, matrix) in zip(axes.flat, matrices.items(), strict=True):
        axis.imshow(np.abs(matrix), cmap=colour_map(), vmin=0, vmax=peak, aspect="auto")
        for (layer, head), value in np.ndenumerate(matrix):
            colour = "white" if abs(value) > 0.55 * peak else INK
            axis.text(head, layer, f"{value:+.3f}", ha="center", va="center", fontsize=6, color=colour)
        axis.set_title(title, fontsize=9, color=INK, loc="left")
        axis.set_xticks(range(matrix.shape[1]))
        axis.set_yticks(range(matrix.shape[0]))
        axis.set_xlabel("head", fontsize=8, color=MUTED)
        axis.tick_params(labelsize=7, length=0, colors=MUTED)
        axis.spines[:].set_visible(False)
    axes.flat[0].set_ylabel("layer", fontsize=8, color=MUTED)
    figure.suptitle(label, fontsize=9, color=MUTED, x=0.01, ha="left")
    return figure


def _panels(
    panels: Mapping[str, Mapping[str, Any]],
    xlabel: str,
    ylabel: str,
    *,
    width: float,
    height: float,
    sharey: bool = False,
    columns: int | None = None,
) -> tuple[Figure, list[Any], list[str]]:
    """A figure with one titled axis per panel, in rows of ``columns`` (None: one row), and the names of all runs."""
    columns = columns or len(panels)
    rows = -(-len(panels) // columns)
    figure, axes = grid(rows, columns, width=width, height=height, margin=0.9, sharey=sharey)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    for axis, title in zip(axes.flat, panels, strict=False):
        axis.spines[["top", "right"]].set_visible(False)
        axis.spines[["left", "bottom"]].set_color(RULE)
        axis.tick_params(labelsize=7, colors=MUTED, length=2, width=0.6)
        axis.grid(axis="y", color=RULE, linewidth=0.4)
        axis.set_axisbelow(True)
        axis.set_title(title, fontsize=9, color=INK, loc="left")
        axis.set_xlabel(xlabel, fontsize=8, color=MUTED)
    axes.flat[0].set_ylabel(ylabel, fontsize=8, color=MUTED)
    return (
        figure,
        list(axes.flat[: len(panels)]),
        list(dict.fromkeys(run for series in panels.values() for run in series)),
    )


def _run_style(index: int) -> dict[str, Any]:
    colour, marker = RUN_COLOURS[index % len(RUN_COLOURS)], MARKERS[index % len(MARKERS)]
    line = {"color": colour, "marker": marker, "markersize": 4, "linewidth": 1.3}
    return line | {"markeredgecolor": colour, "clip_on": False}


def _gaps(values: Sequence[float | None]) -> list[float]:
    return [float("nan") if value is None else float(value) for value in values]


def _legend(figure: Figure, runs: Sequence[str], notes: tuple[str, str], *, lines: bool = True) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = [
        Line2D([], [], label=run, **_run_style(i))
        if lines
        else Patch(color=RUN_COLOURS[i % len(RUN_COLOURS)], label=run)
        for i, run in enumerate(runs)
    ]
    for note, dash in zip(notes, ((0.0, ()), (0.0, (3.0, 2.0))), strict=True):
        if note:
            handles.append(Line2D([], [], color=MUTED, linewidth=1.3, linestyle=dash, label=note))
    figure.legend(handles=handles, loc="outside lower left", ncols=len(handles), fontsize=8, frameon=False)
