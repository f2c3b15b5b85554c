"""How the detector is built: on fastload's public names, and usable without what its commands need."""

import ast
import subprocess
import sys
from pathlib import Path

import detector
import fastload
from detector import checkpoint
from detector.model.detector import Detector
from detector.preprocess import Preprocess

MODULES = sorted(Path(detector.__file__).parent.rglob("*.py"))

LOAD = """
import sys
for name in ("matplotlib", "rich", "tensorboard", "typer", "tyro"):
    sys.modules[name] = None
sys.modules["torch.utils.tensorboard"] = None
from pathlib import Path
import torch
from detector import checkpoint, data, preprocess
from detector.infer import evaluation, files, stream
from detector.model import fuse
trained = checkpoint.load_model(Path(sys.argv[1]))
with torch.no_grad():
    print(trained.model(torch.zeros(1, 3, 64, 64, dtype=torch.uint8)).logits[0].shape[1])
"""


def test_a_checkpoint_is_used_without_command_line_packages(tiny, tmp_path):
    """A service loads and runs a checkpoint where tyro, rich, typer, TensorBoard and Matplotlib are missing."""
    path = tmp_path / "best.pt"
    model = Detector.from_config(tiny, 3).state_dict()
    settings = {"config": tiny.to_dict(), "preprocess": Preprocess.of(tiny).to_dict()}
    checkpoint.save(path, {**settings, "categories": [(1, "a"), (2, "b"), (3, "c")], "model": model, "ema": None})
    done = subprocess.run([sys.executable, "-c", LOAD, str(path)], capture_output=True, text=True)
    assert done.stdout == "3\n", done.stderr


def test_the_detector_uses_public_names_only():
    """Of fastload it imports what `import fastload` offers, and nothing from the modules inside."""
    private = []
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "fastload":
                public = node.module == "fastload" and {alias.name for alias in node.names} <= set(fastload.__all__)
                private += [] if public else [f"{path}: {ast.unparse(node)}"]
            elif isinstance(node, ast.Import):
                private += [f"{path}: {alias.name}" for alias in node.names if alias.name.startswith("fastload.")]
    assert not private


def test_fastload_does_not_know_the_detector():
    """The library stands alone."""
    for path in Path(fastload.__file__).parent.rglob("*.py"):
        assert "import detector" not in path.read_text() and "from detector" not in path.read_text(), path
