"""Updates README's figures, the block between two comments, and its chart from the results of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from chart import draw
from peers import BY_NAME

README = Path(__file__).parents[1] / "README.md"
CHART = Path("docs/speed.png")  # from README's folder
BEGIN, END = "<!-- figures -->", "<!-- /figures -->"
BASE = "dataloader-pillow"  # what "times faster" refers to


def update_readme(readme: Path, results: dict[str, Any], measured_how: str) -> None:
    """Draw the chart of `results` beside `readme` and rewrite its figures."""
    text = replace_block(readme.read_text(), figures(results, measured_how))  # may fail, so before anything is written
    chart = readme.parent / CHART
    chart.parent.mkdir(exist_ok=True)
    draw(results, chart)
    readme.write_text(text)


def replace_block(text: str, block: str) -> str:
    """Put `block` between the two comments in `text`. Raises ValueError unless each comes once, in this order."""
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ValueError(f"README needs a line {BEGIN} and, below it, a line {END} between which the figures go")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{block}\n{END}{after}"


def figures(results: dict[str, Any], measured_how: str) -> str:
    """The chart, the table, its footnotes and how it was measured, as Markdown."""
    contenders = sorted(results["contenders"].items(), key=lambda item: item[1]["images_per_second"])
    notes = list(dict.fromkeys(BY_NAME[name].note for name, _ in contenders if BY_NAME[name].note))
    base = results["contenders"].get(BASE)
    rows = []
    for name, found in contenders:
        note = BY_NAME[name].note
        mark = f" <sup>{notes.index(note) + 1}</sup>" if note else ""
        faster = f"{found['ratio'] / base['ratio']:.1f}" if base else "-"
        rows.append(
            f"| {BY_NAME[name].title}{mark} | {found['images_per_second']:,.0f} | {faster} | {found['ratio']:.2f} "
            f"| {found['bytes_per_image'] / 1000:,.0f} |"
        )
    footnotes = [f"<sup>{number}</sup> {note}  " for number, note in enumerate(notes, 1)]
    return "\n".join(
        [
            f"![Images a second of each loader]({CHART.as_posix()})",
            "",
            f"| loader | images/s | times {BY_NAME[BASE].title} | of bare JPEG decoding | KB an image |",
            "|---|--:|--:|--:|--:|",
            *rows,
            "",
            *footnotes,
            *([""] if footnotes else []),
            measured_how,
        ]
    )
