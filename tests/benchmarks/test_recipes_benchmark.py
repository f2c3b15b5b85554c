"""The benchmark of recipes: ratios to the published loaders, in interleaved rounds."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.benchmarks.test_benchmark import run, scripts  # noqa: F401  # a fixture

PUBLISHED = """#!{python}
import json, sys
names = sys.argv[sys.argv.index("--loaders") + 1 :]
loaders = {{name: {{"images_per_second": 0.5 + i, "cpu_ms": 9.0}} for i, name in enumerate(names)}}
print(json.dumps({{"loaders": loaders}}))
"""


@pytest.fixture
def published_python(tmp_path: Path) -> Path:
    """Stands in for the environment of the published loaders: 0.5 images/s of the default, one more of each other."""
    path = tmp_path / "python"
    path.write_text(PUBLISHED.format(python=sys.executable))
    path.chmod(0o755)
    return path


SMALL = ("--rounds", "1", "--images", "4", "--batch-size", "2", "--threads", "1")


def test_ratios_to_published_loaders(sample_set, tmp_path, published_python):
    """Both caches are measured and compared with the default and the fastest published version."""
    done = run(
        "recipes.py", sample_set, *SMALL, "--recipes", "multiscale", "--json", tmp_path / "r.json",
        "--published-python", published_python, "--repositories", tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "processor" in done.stdout and "torchvision-v2_tensor-uint8" in done.stdout
    result = json.loads((tmp_path / "r.json").read_text())
    assert result["machine"]["processor"] and result["rounds"] == 1
    multiscale = result["recipes"]["multiscale"]
    assert list(multiscale["fastload"]) == ["dct", "original"] and len(multiscale["published"]) == 3
    for found in multiscale["fastload"].values():
        assert found["ratio to default"] == pytest.approx(found["images_per_second"] / 0.5)
        assert found["ratio to fastest"] == pytest.approx(found["images_per_second"] / 2.5)
        assert found["gil_us"] > 0 and found["cpu_ms"] > 0 and found["stats"]["images"] == 4


def test_without_published_loaders(sample_set, tmp_path):
    """FastLoader alone has no ratios."""
    done = run("recipes.py", sample_set, *SMALL, "--recipes", "multiscale", "--json", tmp_path / "r.json")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "r.json").read_text())["recipes"]["multiscale"]
    assert found["published"] == {} and "ratio to default" not in found["fastload"]["dct"]


def test_variants_make_the_same_kind_of_batch(scripts):  # noqa: F811
    """The first variant of each recipe is uint8; YOLOX keeps one size, and SSD its own with and without resizing."""
    import recipes

    found = recipes.comparisons()
    for comparison in found.values():
        assert str(next(iter(comparison.variants.values()))["dtype"]) == "torch.uint8"
    assert "RandomResize" not in str(found["yolox"].variants[""]["transforms"])
    assert ["Resize(" in str(arguments["transforms"]) for arguments in found["ssd"].variants.values()] == [True, False]


def test_interpreter_needs_repositories(tmp_path):
    """One of the two options without the other is refused."""
    done = run("recipes.py", tmp_path, "--published-python", sys.executable)
    assert done.returncode == 2 and "need each other" in done.stderr
