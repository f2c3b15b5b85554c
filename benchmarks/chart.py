"""A bar chart of the benchmark's results, readable on light and dark pages.

    python benchmarks/chart.py results.json docs/speed.png

`results.json` is what `loader.py --json` wrote. Needs matplotlib: `pip install -e '.[plot]'`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from peers import BY_NAME

OURS, OTHERS, INK = "#2f81f7", "#9aa4b2", "#7d8590"  # each with enough contrast to white and to near-black


def draw(results: dict[str, Any], path: Path) -> None:
    """Draw one bar per contender, the fastest on top, and a line at the speed of bare JPEG decoding."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise SystemExit("The chart needs matplotlib: run `pip install matplotlib`.") from None
    contenders = sorted(results["contenders"].items(), key=lambda item: item[1]["images_per_second"])
    speeds = [found["images_per_second"] for _, found in contenders]
    figure = Figure(figsize=(9, 0.42 * len(speeds) + 1.1), layout="constrained")
    axes = figure.subplots()
    titles = [BY_NAME[name].title + (" *" if BY_NAME[name].note else "") for name, _ in contenders]
    colors = [OURS if name.startswith("fastload") else OTHERS for name, _ in contenders]
    bars = axes.barh(titles, speeds, color=colors, height=0.72)
    axes.bar_label(bars, [f"{speed:,.0f}" for speed in speeds], padding=5, color=INK, fontsize=11)
    axes.axvline(results["reference"], color=INK, linewidth=1, linestyle=(0, (4, 3)), zorder=0)
    heading = "images a second (dashed: bare decoding; * another job)"
    axes.set_title(heading, color=INK, fontsize=11, loc="left")
    axes.tick_params(colors=INK, length=0, labelsize=11)
    axes.xaxis.set_visible(False)
    axes.spines[:].set_visible(False)
    axes.margins(x=0.1, y=0.02)
    figure.savefig(path, dpi=160, transparent=True)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    draw(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
