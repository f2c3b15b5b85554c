"""A plot of the measurements of `advise`: size on disk against images/s."""

from __future__ import annotations

from pathlib import Path

from fastload.errors import FastloadError
from fastload.tools.advise import BATCH_SIZE, LONG_EDGE, REDUCTIONS, SHORT_EDGE, Advice, Option
from fastload.tools.tables import human_bytes

COLORS = {"original": "#6b7280", "dct": "#0f62fe", "dct-fast": "#009d74", "planes": "#d9480f"}
MARKERS = dict(zip(REDUCTIONS, "osD^v", strict=True))


def check_plot(file: Path) -> None:
    """Check, before anything is measured, that a plot can be written to `file`. FastloadError if not."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise FastloadError("--plot needs matplotlib: pip install 'fastload-vision[plot]'") from error
    if file.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise FastloadError(f"{file}: choose a file name that ends in .png, .svg or .pdf.")
    if not file.absolute().parent.is_dir():
        raise FastloadError(f"{file}: its folder does not exist. Create it, or choose another.")


def plot_advice(advice: Advice, file: Path) -> None:
    """Plot the options of `advice` to `file`."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    figure = Figure(figsize=(9, 5.5), layout="constrained")
    axes = figure.add_subplot()
    shown = {option.reduction: option.psnr for option in advice.options}
    for name in shown:
        line = [
            _point(option) for option in advice.options if option.reduction == name and option.encoding != "original"
        ]
        axes.plot(*zip(*line, strict=True), color="#d1d5db", linewidth=1, zorder=1)
    for option in advice.options:
        color, marker = COLORS[option.encoding], MARKERS[option.reduction]
        axes.plot(*_point(option), color=color, marker=marker, markersize=9, linestyle="none")
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda number, position: human_bytes(number))
    axes.margins(0.1)
    axes.set_ylim(bottom=0)
    _mark_limits(axes, advice)
    used = dict.fromkeys(option.encoding for option in advice.options)
    handles = [Line2D([], [], color=COLORS[name], marker="o", linestyle="none", label=name) for name in used]
    handles += [
        Line2D([], [], color="#374151", marker=MARKERS[name], linestyle="none", label=_reduced(name, psnr))
        for name, psnr in shown.items()
    ]
    axes.legend(handles=handles, frameon=False, fontsize=9, bbox_to_anchor=(1.01, 1), loc="upper left")
    axes.set_xlabel(f"cache of all {advice.images:,} images (logarithmic)")
    axes.set_ylabel(f"images/s, {advice.threads} threads")
    axes.set_title(f"Short edge {SHORT_EDGE}, at most {LONG_EDGE}, flip, batches of {BATCH_SIZE}", loc="left")
    axes.grid(color="#e5e7eb")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=150)


def _point(option: Option) -> tuple[float, float]:
    return option.bytes, option.images_per_second


def _reduced(name: str, psnr: float | None) -> str:
    return name if psnr is None else f"{name} ({psnr:.0f} dB)"


def _mark_limits(axes, advice: Advice) -> None:  # type: ignore[no-untyped-def]  # matplotlib may not be installed
    low, high = axes.get_xlim()
    for limit, name in ((advice.free_memory, "free memory"), (advice.free_disk, "free disk")):
        if low < limit < high:
            axes.axvline(limit, color="#9ca3af", linestyle="--", linewidth=1)
            axes.annotate(name, (limit, 0), xytext=(4, 6), textcoords="offset points", fontsize=8, color="#6b7280")
