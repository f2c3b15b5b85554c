"""The demo does what it says, and only once."""

import pytest
from PIL import Image
from typer.testing import CliRunner

from fastload import Cache
from fastload.cli.app import app
from fastload.errors import SourceError
from fastload.tools.demo import run_demo


@pytest.mark.long
def test_demo_runs_and_reuses(tmp_path):
    """A set, a cache, a table with the ratio, a picture; run again, set and cache are those of the first time."""
    folder = tmp_path / "demo"
    shown = CliRunner().invoke(app, ["demo", str(folder), "--images", "40"], catch_exceptions=False)
    assert shown.exit_code == 0 and "FastLoader" in shown.stdout and "batch.png" in shown.stdout
    assert len(Cache(folder / "sample" / "fastload" / "train.lmdb")) == 32
    with Image.open(folder / "batch.png") as picture:
        assert picture.width > 1000
    kept = {file: file.stat().st_mtime_ns for file in folder.rglob("*") if file.suffix in (".jpg", ".json", ".lmdb")}
    outcome = run_demo(folder, images=40)
    assert kept == {file: file.stat().st_mtime_ns for file in kept}
    assert outcome.usual > 1 and outcome.fast > 1 and outcome.picture == folder / "batch.png"


def test_demo_leaves_other_peoples_folders_alone(tmp_path):
    """A folder whose `sample` is something else is refused and not touched."""
    (tmp_path / "sample").mkdir()
    (tmp_path / "sample" / "thesis.tex").write_text("")
    with pytest.raises(SourceError, match="choose another folder"):
        run_demo(tmp_path)
    assert sorted(file.name for file in tmp_path.rglob("*")) == ["sample", "thesis.tex"]
