"""FastLoader in the frameworks that people train with, by their own packages."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from itertools import islice
from pathlib import Path

import lightning as L
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from lightning.fabric.utilities.data import _get_dataloader_init_args_and_kwargs, _update_dataloader
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import SequentialSampler, WeightedRandomSampler
from torch.utils.data.distributed import DistributedSampler
from torchdata.stateful_dataloader import StatefulDataLoader
from torchdata.stateful_dataloader.stateful import Stateful

from fastload import IMAGENET_MEAN, IMAGENET_STD, CenterAlign, FastLoader, RandomFlip
from fastload.errors import ArgumentError
from tests.support.class_cache import class_cache
from tests.support.datasets import jpeg
from tests.support.loaders import CACHE, IDS, ids, loader, seeded
from tests.support.memory_cache import MemoryCache
from tests.test_target_masks import build as masked_cache

ROOT = Path(__file__).parents[2]
CAPTURED = {"capture_output": True, "text": True, "cwd": ROOT, "timeout": 200}
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
SETTINGS = {"shuffle": True, "num_workers": 2}


class Watch(L.LightningModule):
    """Trains one weight, and notes which images came in which epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.seen: list[tuple[int, list[int]]] = []

    def training_step(self, batch, index):
        images, targets = batch
        assert images.device == targets.boxes.device == self.device
        self.seen.append((self.current_epoch, targets.image_id.tolist()))
        return (self.weight * images.float().mean()).sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 1e-6)


def trainer(folder: Path, **arguments) -> L.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    arguments.setdefault("enable_checkpointing", False)
    return L.Trainer(default_root_dir=folder, devices=1, **quiet, **arguments)


def flat(batches) -> list[int]:
    return [i for batch in batches for i in batch]


@pytest.mark.filterwarnings("ignore")  # Lightning's advice on the number of workers
class TestLightning:
    def test_it_trains_on_every_image_once_an_epoch(self, tmp_path):
        """Trainer.fit with a FastLoader sees exact epochs, each in another order."""
        model = Watch()
        trainer(tmp_path, max_epochs=2).fit(model, loader(**SETTINGS))
        epochs = [flat(batch for epoch, batch in model.seen if epoch == number) for number in range(2)]
        assert sorted(epochs[0]) == sorted(epochs[1]) == IDS and epochs[0] != epochs[1]

    def test_a_checkpoint_in_mid_epoch_goes_on_with_the_images_not_seen(self, tmp_path):
        """fit(ckpt_path=...) of a checkpoint after three batches trains on the rest, once, then on the next epoch."""
        whole = Watch()
        trainer(tmp_path, max_epochs=2).fit(whole, loader(**SETTINGS))
        first = Watch()
        save = ModelCheckpoint(tmp_path, filename="middle", every_n_train_steps=3, save_top_k=1, monitor=None)
        trainer(tmp_path, max_steps=3, callbacks=[save], enable_checkpointing=True).fit(first, loader(**SETTINGS))
        second = Watch()
        data = loader(**SETTINGS, generator=seeded(9))
        trainer(tmp_path, max_epochs=2).fit(second, data, ckpt_path=tmp_path / "middle.ckpt")
        assert [batch for _, batch in first.seen + second.seen] == [batch for _, batch in whole.seen]

    def test_it_takes_the_sampler_that_lightning_injects(self, tmp_path):
        """Built anew by Lightning with a DistributedSampler, it keeps its settings and shares the epoch."""
        given = loader(**SETTINGS, group_by_aspect=True, on_error="skip", drop_last=True)
        ranks = []
        for rank in range(2):
            connector = trainer(tmp_path)._data_connector
            sampler = DistributedSampler(CACHE, 2, rank, shuffle=True, seed=3)
            connector._resolve_sampler = lambda *_, sampler=sampler, **__: sampler
            connector._requires_distributed_sampler = lambda *_: True
            again = connector._prepare_dataloader(given, shuffle=True, mode="fit")
            assert type(again) is FastLoader and again is not given and again.sampler is sampler
            assert (again.on_error, again.drop_last, again.num_workers) == ("skip", True, 2)
            ranks.append(ids(again))
        seen = flat(ranks[0]) + flat(ranks[1])
        assert len(ranks[0]) == len(ranks[1]) == 4 and len(set(seen)) == len(seen) == 32

    def test_it_keeps_every_argument_when_built_anew(self):
        """What Lightning reads off a loader to build it again with its sampler is all that it was given."""
        given = {
            "batch_size": 2,
            "num_workers": 2,
            "collate_fn": CenterAlign(),
            "drop_last": True,
            "generator": seeded(),
            "prefetch_factor": 3,
            "persistent_workers": True,
            "transforms": [RandomFlip()],
            "on_error": "skip",
            "verify_checksums": "always",
            "scaled_decoding": False,
            "engine": "reference",
            "function_workers": 2,
            "skip_crowd": True,
            "skip_empty": True,
            "device": "cpu",
            "mean": IMAGENET_MEAN,
            "std": IMAGENET_STD,
            "dtype": torch.bfloat16,
            "memory_format": torch.contiguous_format,
            "snapshot_every_n_steps": 5,
        }
        data = FastLoader(CACHE, shuffle=True, **given)
        sampler = DistributedSampler(data.dataset, 2, 0, shuffle=True, seed=3)
        positional, named = _get_dataloader_init_args_and_kwargs(data, sampler)
        assert positional == () and named["dataset"] is data.dataset and named["sampler"] is sampler
        assert {name: named[name] for name in given} == given
        again = _update_dataloader(data, sampler)
        expected = FastLoader(CACHE, sampler=sampler, **{**given, "generator": seeded()})
        for (images, targets), (others, also) in zip(again, expected, strict=True):
            assert images.dtype == torch.bfloat16 and images.is_contiguous() and torch.equal(images, others)
            assert targets.image_id.tolist() == also.image_id.tolist() and not targets.crowd.any()

    @pytest.mark.parametrize("more", [{"pin_memory": True}, {"group_by_aspect": True}, {"timeout": 4}], ids=str)
    def test_it_keeps_what_excludes_others(self, more):
        """As above, of what a cache ignores with a warning, and of grouping, which an order given does not have."""
        named = _get_dataloader_init_args_and_kwargs(FastLoader(CACHE, **more), SequentialSampler(CACHE))[1]
        assert named.items() >= more.items()

    def test_it_keeps_masks(self, tmp_path):
        """As above, of what only a cache with masks takes."""
        cache = masked_cache(tmp_path, jpeg())
        given = {"masks": True, "mask_stride": 4, "boxes_from_masks": True}
        named = _get_dataloader_init_args_and_kwargs(FastLoader(cache, **given), SequentialSampler(cache))[1]
        assert named.items() >= given.items()

    def test_it_keeps_classes(self):
        """As above, of what only a cache of classified images takes."""
        data = FastLoader(class_cache(8), 4, targets="class_ids")
        again = _update_dataloader(data, SequentialSampler(data.dataset))
        named = _get_dataloader_init_args_and_kwargs(data, SequentialSampler(data.dataset))[1]
        assert named["targets"] == "class_ids"
        assert [targets.tolist() for _, targets in again] == [[0, 1, 2, 3]] * 2

    def test_no_argument_is_forgotten_here(self):
        """The tests above name all there are."""
        tested = inspect.getsource(TestLightning)
        replaced = {"self", "dataset", "shuffle", "sampler", "batch_sampler", "newer"}
        alike = {"worker_init_fn", "multiprocessing_context", "pin_memory_device"}  # to timeout
        arguments = inspect.signature(FastLoader.__init__).parameters.keys() - replaced - alike
        assert [name for name in arguments if f'"{name}"' not in tested] == []


@pytest.fixture
def accelerator():
    yield lambda **arguments: Accelerator(cpu=True, **arguments)
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()


class TestAccelerate:
    def test_prepare_keeps_the_loader_and_places_batches(self, accelerator):
        """accelerator.prepare gives the same loader back, its batches on the accelerator's device, epochs exact."""
        run = accelerator()
        data = loader(**SETTINGS)
        _, prepared = run.prepare(torch.nn.Linear(1, 1), data)
        assert prepared is data and len(prepared) == 10
        for images, targets in prepared:
            assert images.device == targets.boxes.device == run.device
        assert sorted(flat(ids(prepared))) == IDS

    def test_gradients_are_accumulated_to_the_end_of_the_epoch(self, accelerator):
        """Ten batches in fours are three steps: the last batch of an epoch always takes one."""
        run = accelerator(gradient_accumulation_steps=4)
        model, data = run.prepare(torch.nn.Linear(1, 1), loader(**SETTINGS))
        steps, ends = [], []
        for _ in range(2):
            for _ in data:
                with run.accumulate(model):
                    steps.append(run.sync_gradients)
                    ends.append(run.gradient_state.end_of_dataloader)
        assert steps == [i in (3, 7, 9) for i in range(10)] * 2
        assert ends == [i == 9 for i in range(10)] * 2
        assert not run.gradient_state.in_dataloader

    def test_leaving_early_leaves_nothing_behind(self, accelerator):
        """After a break, Accelerate does not think the loader is still being iterated."""
        run = accelerator()
        data = run.prepare_data_loader(loader(**SETTINGS))
        for _ in data:
            break
        assert not run.gradient_state.in_dataloader

    def test_its_checkpoints_keep_the_place_in_the_epoch(self, accelerator, tmp_path):
        """save_state after three batches, load_state in a new run: the rest of the epoch, then the next one."""
        expected = loader(**SETTINGS)
        expected = ids(expected) + ids(expected)
        run = accelerator()
        data = run.prepare(loader(**SETTINGS))
        seen = []
        for batch in data:
            seen += ids([batch])
            if len(seen) == 3:
                run.save_state(tmp_path)
                break
        run = accelerator()
        data = run.prepare(loader(**SETTINGS, generator=seeded(9)))
        run.load_state(tmp_path)
        seen += ids(data) + ids(data)
        assert seen == expected

    @pytest.mark.long
    def test_processes_share_the_epoch(self):
        """Two processes: every image once, gathered without the padding, in an order that they agree on."""
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
        done = subprocess.run([*command, ROOT / "tests/loader/two_processes.py"], env=ENVIRONMENT, **CAPTURED)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("every image once") == 1

    def test_a_loader_that_is_only_looked_at_is_not_prepared(self):
        """Reading all attributes of a loader, as a debugger does, joins no Accelerate run where there is none."""
        data = loader(**SETTINGS)
        assert not dict(inspect.getmembers(data))["_is_accelerate_prepared"]
        assert not PartialState._shared_state and len(ids(data)) == 10

    def test_orders_it_cannot_share_are_refused(self, accelerator, monkeypatch):
        """Several processes and a sampler of another kind are an error, not an epoch seen twice."""
        run = accelerator()
        monkeypatch.setitem(PartialState._shared_state, "num_processes", 2)
        with pytest.raises(ArgumentError, match="a DistributedSampler as sampler"):
            run.prepare(loader(sampler=WeightedRandomSampler([1.0] * 37, 37)))


class TestTorchdata:
    def test_it_is_stateful(self):
        """torchdata's own protocol recognizes it."""
        assert isinstance(loader(), Stateful)

    @pytest.mark.parametrize("step", [0, 1, 5, 10])
    def test_it_resumes_where_a_stateful_dataloader_would(self, step):
        """The same calls give the same images as torchdata's StatefulDataLoader over the same order."""

        def rest(make) -> list[list[int]]:
            data = make()
            batches = iter(data)
            list(islice(batches, step))
            state = data.state_dict()
            again = make()
            again.load_state_dict(state)
            return [batch if isinstance(batch, list) else ids([batch])[0] for batch in again]

        theirs = rest(lambda: StatefulDataLoader(IDS, 4, collate_fn=list))
        if step < 10:  # at the end of an epoch theirs gives none or all by version; ours the next epoch
            assert rest(loader) == theirs
        whole = loader()
        assert rest(lambda: FastLoader(MemoryCache(37), 4)) == ids(whole)[step:]


@pytest.mark.long
@pytest.mark.parametrize("script", ["train_lightning.py", "train_accelerate.py", "train_torchvision.py"])
def test_the_examples_train(script, sample_set):
    """Each example runs as it stands, sees every image of each epoch, and its loss falls."""
    command = [sys.executable, ROOT / "examples" / script, sample_set]
    done = subprocess.run(command, env=ENVIRONMENT, **CAPTURED)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines() if line.startswith("epoch")]
    assert len(lines) == 3 and len({line[2] for line in lines}) == 1 and int(lines[0][2]) >= 24
    losses = [float(line[-1]) for line in lines]
    assert losses[2] < losses[0]
