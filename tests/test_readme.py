"""What README.md and docs/ show can be typed as it stands."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from inspect import signature
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from fastload import FastLoader
from fastload.cache.write.build import BuildOptions, build_cache
from fastload.sources.detect import find_datasets
from fastload.tools.baseline import BaselineDataset
from tests.cli.test_cli import fastload_command

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
CODE = ("python", "diff")
CODE_SPAN = re.compile(r"`(fastload [^`]+)`")
LONE = ("doctor",)  # commands that do something without an argument
LONG = ("plan",)  # those that take half a minute


class Block(NamedTuple):
    """A fenced block of a page."""

    page: Path
    line: int  # its first
    language: str
    text: str

    @property
    def place(self) -> str:
        return f"{self.page.name}:{self.line}"


def fenced_blocks(page: Path) -> list[Block]:
    """All fenced blocks of a page; of a diff, what it makes: its lines without `-`."""
    blocks, inside, lines, start = [], "", [], 0
    for number, line in enumerate(page.read_text().splitlines(), 1):
        fence = re.fullmatch(r"```(\w*)", line.strip())
        if fence is None:
            lines.append(line)
        elif inside or not fence[1]:
            blocks.append(Block(page, start, inside, "\n".join(lines)))
            inside = ""
        else:
            inside, lines, start = fence[1], [], number + 1
    return [block._replace(text=after(block.text)) if block.language == "diff" else block for block in blocks]


def after(diff: str) -> str:
    """The `+` side of a diff."""
    return "\n".join(line[1:] for line in diff.splitlines() if not line.startswith("-"))


def commands(page: Path) -> list[Block]:
    """The fastload commands of a page, in fences, indented or as a span of code; the lines that install aside."""
    found = []
    for number, line in enumerate(page.read_text().splitlines(), 1):
        whole = re.match(r"(?:    |\$ )?(fastload [^#]+)", line)
        texts = [whole[1]] if whole else CODE_SPAN.findall(line)
        found += [Block(page, number, "sh", text.strip()) for text in texts]
    return found


BLOCKS = [block for page in PAGES for block in fenced_blocks(page) if block.language in CODE]
COMMANDS = [command for page in PAGES for command in commands(page)]


class Detector(nn.Module):
    """As strict as torchvision's detectors in training: a list of float images in [0, 1] and a list of dicts."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, images: list[Tensor], targets: list[dict[str, Any]]) -> dict[str, Tensor]:
        assert len(images) == len(targets) > 0
        for image, target in zip(images, targets, strict=True):
            if not image.is_floating_point():
                raise TypeError(f"Expected input images to be of floating type, but found type {image.dtype} instead")
            assert image.ndim == 3 and image.shape[0] == 3
            assert image.min() >= 0 and image.max() <= 1 and image.max() > 1 / 255
            boxes, labels = target["boxes"], target["labels"]
            height, width = image.shape[-2:]
            assert boxes.dtype == torch.float32 and boxes.shape == (len(labels), 4) and labels.dtype == torch.int64
            assert (boxes[:, 2:] > boxes[:, :2]).all() and (boxes >= 0).all()
            assert (boxes <= torch.tensor([width, height, width, height]) + 1e-3).all()
        return {"loss": self.weight * torch.stack([image.mean() for image in images]).mean()}


@pytest.fixture(scope="module")
def folder(sample_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a part of the sample set as `coco/`, its splits named as COCO's and cached in `coco/fastload/`.

    The same images are in `imagenet/`, in a folder for each class, and cached.
    """
    folder = tmp_path_factory.mktemp("reader")
    coco = shutil.copytree(sample_set, folder / "coco")
    for split in ("train", "val"):
        (coco / split).rename(coco / f"{split}2017")
        file = coco / "annotations" / f"instances_{split}.json"
        document = json.loads(file.read_text())
        del document["images"][18:]  # two batches of 16, so that all blocks take seconds
        kept = {image["id"] for image in document["images"]}
        document["annotations"] = [each for each in document["annotations"] if each["image_id"] in kept]
        file.rename(file.with_name(f"instances_{split}2017.json")).write_text(json.dumps(document))
    for split in ("train", "val"):
        for i, image in enumerate(sorted((coco / f"{split}2017").glob("*.jpg"))):
            classified = folder / "imagenet" / split / f"class{i % 3}" / image.name
            classified.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(image, classified)
    for dataset in (*find_datasets(coco), *find_datasets(folder / "imagenet")):
        build_cache(dataset.load(), dataset.cache, BuildOptions(workers=2))
    return folder


@pytest.fixture
def names(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What a block finds: see `test_the_code_runs`."""
    monkeypatch.chdir(folder)
    model = Detector()
    return {
        "torch": torch,
        "utils": SimpleNamespace(collate_fn=lambda batch: tuple(zip(*batch, strict=True))),
        "model": model,
        "optimizer": torch.optim.SGD(model.parameters(), 1e-3),
        "dataset": BaselineDataset(list(find_datasets(Path("coco"))[0].load().samples())),
    }


@pytest.mark.filterwarnings("error::DeprecationWarning")
@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.place)
def test_the_code_runs(block: Block, names: dict[str, Any]) -> None:
    """A block of Python, or the `+` side of a diff, runs after the blocks above it on its page.

    It may assume, beside what these define: a folder `coco/` with `train2017` and `val2017` and the caches that
    `fastload build-cache coco/` makes of them; `imagenet/`, with the class folders `train` and `val`, and its caches;
    and a training script's own names: `torch`, `utils` of torchvision's detection references, `dataset`, `optimizer`,
    and `model`, which takes what torchvision's detectors take. Whatever else a block uses it must import or define.
    What needs a GPU does not belong in a block.
    """
    above = [other for other in fenced_blocks(block.page) if other.language in CODE and other.line < block.line]
    for each in (*above, block):
        source = "\n" * (each.line - 1) + each.text  # so that errors name the page's line
        exec(compile(source, str(each.page), "exec"), names)


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(command, marks=[pytest.mark.long] if command.text.split()[1] in LONG else [])
        for command in COMMANDS
    ],
    ids=[f"{command.place}-{command.text}" for command in COMMANDS],
)
def test_the_commands_run(command: Block, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fastload command succeeds in a folder that holds `coco/`; `CACHE` stands for a cache in it.

    One that is only named, without arguments, must exist.
    """
    monkeypatch.chdir(folder)
    words = ["coco/fastload/val2017.lmdb" if word == "CACHE" else word for word in shlex.split(command.text)[1:]]
    if len(words) == 1 and words[0] not in LONE:
        words.append("--help")
    done = fastload_command(*words)
    assert done.returncode == 0, done.stderr


def test_the_pages_have_code() -> None:
    """README's swap and the commands of each page are among what is run."""
    assert {block.language for block in BLOCKS if block.page.name == "README.md"} == set(CODE)
    texts = [command.text for command in COMMANDS]
    for name in ("build-cache", "info", "view", "verify", "doctor", "plan"):
        assert any(text.startswith(f"fastload {name}") for text in texts), name


def test_the_model_is_as_strict_as_torchvisions() -> None:
    """The detector that blocks train refuses bytes, as torchvision's do, and levels above 1."""
    target = {"boxes": torch.tensor([[1.0, 2, 3, 4]]), "labels": torch.tensor([1])}
    with pytest.raises(TypeError, match="floating type"):
        Detector()([torch.zeros(3, 8, 8, dtype=torch.uint8)], [target])
    with pytest.raises(AssertionError):
        Detector()([torch.full((3, 8, 8), 2.0)], [target])


def test_the_page_on_the_loader_has_every_argument() -> None:
    """The tables of docs/loader.md name the parameters of DataLoader and FastLoader: no more, no less."""
    rows = re.findall(r"^\| `(\w+)` \|", (ROOT / "docs/loader.md").read_text(), re.MULTILINE)
    assert len(rows) == len(set(rows)), "each once"
    parameters = {"in_order"}  # DataLoader's since torch 2.6
    for loader in (DataLoader, FastLoader):
        parameters |= {name for name, each in signature(loader).parameters.items() if each.kind != each.VAR_KEYWORD}
    assert set(rows) == parameters
