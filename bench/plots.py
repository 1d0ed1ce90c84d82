"""Draws figures as PNG and SVG with matplotlib; the SVG files are the same for the same data and version of it.

python -m fused_dropout.bench.plots RESULT.json FOLDER
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from . import series
from .files import read_json
from .series import Curve, Figure

STYLE: Any = {
    "svg.hashsalt": "fused_dropout",
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.grid": True,
    "grid.alpha": 0.3,
}
WIDTH, HEIGHT = 3.6, 3.0  # inches of a panel
COLUMNS = 3
MARKERS = "osD^"


def draw(result: Mapping[str, Any], folder: Path) -> list[Path]:
    """Writes every figure that the result has data for; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    with matplotlib.rc_context(STYLE):
        for figure in series.figures(result):
            canvas = _canvas(figure)
            for suffix in ("svg", "png"):
                path = folder / f"{series.stem(result)}-{figure.name}.{suffix}"
                meta = {"Date": None, "Description": figure.digest} if suffix == "svg" else {"Title": figure.title}
                canvas.savefig(path, metadata=meta, dpi=120, bbox_inches="tight")
                paths.append(path)
    return paths


def _canvas(figure: Figure) -> Canvas:
    columns = min(len(figure.panels), COLUMNS) if figure.kind == "curves" else 1
    rows = -(-len(figure.panels) // columns)
    alone = 1.9 if len(figure.panels) == 1 or figure.kind == "bars" else 1.0
    canvas = Canvas(figsize=(WIDTH * columns * alone, HEIGHT * rows * alone), layout="constrained")
    canvas.suptitle(figure.title)
    axes = canvas.subplots(rows, columns, squeeze=False, sharey=figure.name == "ratio").flatten()
    for ax, panel in zip(axes, figure.panels, strict=False):
        ax.set(title=panel.title, xlabel=figure.x_label, ylabel=figure.y_label)
        DRAWN[figure.kind](ax, panel.curves)
    for ax in axes[len(figure.panels) :]:
        ax.axis("off")
    if figure.kind == "curves" and len(figure.panels) > 1:  # one legend, of all implementations
        handles = {label: line for ax in axes for line, label in zip(*ax.get_legend_handles_labels(), strict=True)}
        canvas.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=5)
    else:
        handles, labels = axes[0].get_legend_handles_labels()
        canvas.legend(handles, labels, loc="outside lower center", ncols=3, fontsize="small")
    return canvas


def _curves(ax: Axes, curves: tuple[Curve, ...]) -> None:
    ax.set(xscale="log", yscale="log")
    ax.set_xscale("log", base=2)
    for place, curve in enumerate(curves):
        color, width = _color(curve.label, place), 2.0 if curve.label == series.OURS else 1.0
        ax.plot(curve.x, curve.y, marker=".", label=curve.label, color=color, linewidth=width)
        ax.fill_between(curve.x, curve.low, curve.high, alpha=0.2, color=color, linewidth=0)


def _color(label: str, place: int) -> str:
    """The same for an implementation in every panel; what is none has one by its place."""
    known = (
        *(series.OURS, "F.dropout", "compiled F.dropout", "mul", "bit mask", "jax.jit"),
        *("triton low-memory", "TransformerEngine", "flash_attn", "mul_"),
    )
    same = {"eager": "F.dropout", "compiled": "compiled F.dropout", "unmasked": "mul", "mul_": "mul"}
    name = same.get(label, label)
    return f"C{known.index(name) if name in known else place}"


def _roofline(ax: Axes, curves: tuple[Curve, ...]) -> None:
    ax.set(xscale="log", yscale="log")
    for k, curve in enumerate(curves):
        if len(curve.x) > 1:
            ax.plot(curve.x, curve.y, "-" if k == len(curves) - 1 else "--", label=curve.label)
        else:
            ax.plot(curve.x, curve.y, MARKERS[k // 10 % len(MARKERS)], color=f"C{k % 10}", label=curve.label)


def _bars(ax: Axes, curves: tuple[Curve, ...]) -> None:
    places = list(dict.fromkeys(place for curve in curves for place in curve.places))
    thickness = 0.8 / len(curves)
    for k, curve in enumerate(curves):
        at = [places.index(place) + k * thickness for place in curve.places]
        ax.barh(at, curve.y, thickness, label=curve.label)
    ax.set_yticks([place + 0.4 - thickness / 2 for place in range(len(places))], places)
    ax.invert_yaxis()


DRAWN = {"curves": _curves, "roofline": _roofline, "bars": _bars}


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python -m fused_dropout.bench.plots RESULT.json FOLDER")
    print(*draw(read_json(Path(sys.argv[1])), Path(sys.argv[2])), sep="\n")
