"""Attention as a picture: weight matrices of heads. matplotlib is imported when the first one is drawn.

A figure stands outside pyplot, so that neither global state nor a display is needed. A notebook shows it.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nmt_rela.data.tokenizer import WORD_START
from nmt_rela.utils.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, RULE, NULL = "#1b2127", "#6b747d", "#d5dae0", "#d9730d"
#: From almost white to almost black, with evenly falling lightness.
SCALE = ("#dfeaf3", "#a9cbe4", "#5f9fcd", "#23699f", "#08304f")
SITE_TITLES = {"encoder": "encoder self-attention", "decoder": "decoder self-attention", "cross": "cross-attention"}
_FONTS = ("DejaVu Sans", "Noto Sans CJK SC", "Noto Sans CJK JP", "WenQuanYi Zen Hei", "Arial Unicode MS", "PingFang SC")


def require_matplotlib(otherwise: str = "") -> None:
    """Raise UserError, which names the command that installs matplotlib, and what else to do, where it is absent."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"plots need matplotlib, which is not installed; run: pip install 'nmt_rela[analysis]'{otherwise}"
        ) from error


def heatmap(
    queries: Sequence[str],
    keys: Sequence[str],
    weights: npt.ArrayLike,
    *,
    panels: Sequence[str],
    title: str = "",
    columns: int = 4,
) -> Figure:
    """Weight matrices side by side, queries down and keys across, one panel per head.

    ``weights`` is [panels, queries, keys]. Each panel is shaded up to its own maximum, which stands above it. A weight
    of exactly 0 is left blank, and a null row is struck through, as in the paper's figure of null attention.
    """
    matrices = np.asarray(weights, dtype=float)
    if matrices.shape != (len(panels), len(queries), len(keys)):
        raise ValueError(f"weights have shape {matrices.shape}; expected {(len(panels), len(queries), len(keys))}")
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    cell = 0.17
    figure, axes = grid(rows, columns, width=cell * len(keys) + 0.35, height=cell * len(queries) + 0.4, margin=1.5)
    for index, axis in enumerate(axes.flat):
        if index >= len(panels):
            axis.set_visible(False)
            continue
        row, column = divmod(index, columns)
        _draw_matrix(axis, matrices[index])
        peak = f"max {matrices[index].max():.2g}" if matrices[index].any() else "all zero"
        axis.set_xlabel(f"{panels[index]} · {peak}", fontsize=8, color=MUTED, labelpad=5)
        _label_tokens(axis, queries if column == 0 else [], keys if row == 0 else [])
    if title:
        figure.suptitle(title, fontsize=10, color=INK, x=0.01, ha="left", parse_math=False)
    return figure


def readable(subwords: Sequence[str]) -> list[str]:
    """Labels of sub-words: the start of a word without ▁, its continuation after a dot, special tokens by name."""
    meanings = {"</s>": "‹end›", "<s>": "‹start›"}
    shown = []
    for index, subword in enumerate(subwords):
        begins = subword.startswith(WORD_START) or index == 0
        text = subword.removeprefix(WORD_START) or WORD_START
        shown.append(meanings.get(subword, text if begins else f"·{text}"))
    return shown


def grid(
    rows: int, columns: int, *, width: float, height: float, margin: float, sharey: bool = False
) -> tuple[Figure, Any]:
    """A figure and its axes [rows, columns]; ``width`` and ``height`` of one axis, and ``margin``, are inches."""
    require_matplotlib()
    from matplotlib import font_manager, rc_context
    from matplotlib.figure import Figure

    installed = set(font_manager.get_font_names())
    with rc_context({"font.family": [name for name in _FONTS if name in installed] or ["sans-serif"]}):
        figure = Figure(figsize=(width * columns + margin, height * rows + margin), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False, sharey=sharey)
    vars(figure)["_repr_png_"] = partial(_png, figure)  # what a notebook asks for
    return figure, axes


def _png(figure: Figure) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=120, facecolor="white")
    return stream.getvalue()


def colour_map() -> Any:
    """`SCALE` as matplotlib's."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("attention", SCALE)


def _draw_matrix(axis: Axes, matrix: npt.NDArray[np.float64]) -> None:
    from matplotlib.patches import Rectangle

    queries, keys = matrix.shape
    shown = np.where(matrix == 0.0, np.nan, matrix)  # NaN is not drawn
    axis.imshow(shown, cmap=colour_map(), vmin=0, vmax=matrix.max() or 1.0, aspect="equal", interpolation="nearest")
    for query in np.flatnonzero(~matrix.any(axis=1)):
        axis.add_patch(Rectangle((-0.5, query - 0.5), keys, 1, color=NULL, alpha=0.10, lw=0))
        axis.plot([-0.5, keys - 0.5], [query, query], color=NULL, lw=0.7)
    axis.set_xticks(np.arange(keys + 1) - 0.5, minor=True)
    axis.set_yticks(np.arange(queries + 1) - 0.5, minor=True)
    axis.grid(which="minor", color=RULE, linewidth=0.35)
    axis.set_axisbelow(True)
    axis.tick_params(which="both", length=0)
    for spine in axis.spines.values():
        spine.set(color=RULE, linewidth=0.6)
    axis.set_xlim(-0.5, keys - 0.5)
    axis.set_ylim(queries - 0.5, -0.5)


def _label_tokens(axis: Axes, queries: Sequence[str], keys: Sequence[str]) -> None:
    axis.xaxis.tick_top()
    style: dict[str, Any] = {"fontsize": 7, "color": INK, "parse_math": False}  # a dollar sign starts no formula
    axis.set_xticks(range(len(keys)), keys, rotation=90, **style)
    axis.set_yticks(range(len(queries)), queries, **style)
    axis.tick_params(length=0, pad=2)
