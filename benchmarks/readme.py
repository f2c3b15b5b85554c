"""The benchmark's figures in README.md and docs/benchmarks.md: tables between two comments, and a chart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from chart import draw
from peers import BY_NAME

README = Path(__file__).parents[1] / "README.md"
PAGE = Path("docs/benchmarks.md")  # relative to README's folder, as is the chart
CHART = Path("docs/speed.png")
BEGIN, END = "<!-- figures -->", "<!-- /figures -->"
BASE = "dataloader-pillow"  # the loader that speedups refer to


def update_readme(readme: Path, results: dict[str, Any], measured_how: str) -> None:
    """Rewrite the figures of `readme` and of the page beside it, and draw the page's chart.

    Raises:
        ValueError: a file has no place for the figures. Nothing is written then.
    """
    page = readme.parent / PAGE
    blocks = {readme: short_figures(results, measured_how), page: figures(results, measured_how)}
    texts = {file: replace_block(file.read_text(), block, file.name) for file, block in blocks.items()}
    draw(results, readme.parent / CHART)
    for file, text in texts.items():
        file.write_text(text)


def replace_block(text: str, block: str, name: str = "README.md") -> str:
    """`text` with `block` between the two comments. ValueError unless each occurs once, in this order."""
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ValueError(f"{name} needs a line {BEGIN} and, below it, a line {END}: the figures go between them")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{block}\n{END}{after}"


def short_figures(results: dict[str, Any], measured_how: str) -> str:
    """Markdown for README: a table of the loaders that do the same work, and how it was measured."""
    rows = [
        f"| {BY_NAME[name].title} | {found['images_per_second']:,.0f} | {_speedup(found, results)} "
        f"| {found['bytes_per_image'] / 1000:,.0f} |"
        for name, found in _slowest_first(results)
        if not BY_NAME[name].note
    ]
    head = f"| loader | images/s | speedup over {BY_NAME[BASE].title} | KB per image |"
    return "\n".join([head, "|---|--:|--:|--:|", *rows, "", measured_how])


def figures(results: dict[str, Any], measured_how: str) -> str:
    """Markdown for the page: the chart, the table of all loaders, its footnotes, and how it was measured."""
    contenders = _slowest_first(results)
    notes = list(dict.fromkeys(BY_NAME[name].note for name, _ in contenders if BY_NAME[name].note))
    rows = []
    for name, found in contenders:
        note = BY_NAME[name].note
        mark = f" <sup>{notes.index(note) + 1}</sup>" if note else ""
        rows.append(
            f"| {BY_NAME[name].title}{mark} | {found['images_per_second']:,.0f} | {_speedup(found, results)} "
            f"| {found['ratio']:.2f} | {found['bytes_per_image'] / 1000:,.0f} |"
        )
    footnotes = [f"<sup>{number}</sup> {note}  " for number, note in enumerate(notes, 1)]
    head = f"| loader | images/s | speedup over {BY_NAME[BASE].title} | relative to bare JPEG decoding | KB per image |"
    return "\n".join(
        [
            f"![Images per second of each loader]({CHART.name})",
            "",
            head,
            "|---|--:|--:|--:|--:|",
            *rows,
            "",
            *footnotes,
            *([""] if footnotes else []),
            measured_how,
        ]
    )


def _slowest_first(results: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return sorted(results["contenders"].items(), key=lambda item: float(item[1]["images_per_second"]))


def _speedup(found: dict[str, Any], results: dict[str, Any]) -> str:
    """Of the speeds relative to the decoding loop beside each: clocks drift between rounds."""
    base = results["contenders"].get(BASE)
    return f"{found['ratio'] / base['ratio']:.1f}" if base else "-"
