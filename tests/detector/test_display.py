"""What a person sees of a training run."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from detector.train import display

ROW = {"step": 61, "loss": 1.5, "lr": 1e-3, "data_time": 0.0041, "step_time": 0.8, "images_per_second": 5.0}
FIGURES = dict.fromkeys(("AP", "AP50", "AP75", "APs", "APm", "APl"), 0.25)


@pytest.mark.parametrize("terminal", [True, False])
def test_a_run_shows_how_far_it_is(monkeypatch, capsys, terminal):
    """In 80 columns and without a terminal: steps, time left, metrics, how an evaluation goes on and what it found."""
    out = io.StringIO()
    monkeypatch.setattr(display, "Console", lambda **_: Console(file=out, force_terminal=terminal, width=80))
    with display.Display(steps=120, done=60) as shown:
        shown.advance()
        shown.show(ROW)
        with shown.evaluation(1) as report:
            report(60, 60)
        shown.show_figures(1, FIGURES)
        shown.advance()
    text = re.sub("\x1b\\[[0-9;?]*[a-zA-Z]", "", out.getvalue())
    assert "data 4.1 ms of step 800 ms  5.0 images/s" in text and "AP 25.0" in text
    assert ("61/120" in text and "62/120" in text) if terminal else ("step 61/120" in text and "0.8 min left" in text)
    assert max(map(len, text.replace("\r", "\n").splitlines())) <= (80 if terminal else 100)
    assert "Evaluating epoch 1: 60 of 60 images" in capsys.readouterr().err
