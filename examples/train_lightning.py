"""FastLoader in PyTorch Lightning: the Trainer takes it as any DataLoader.

    python examples/train_lightning.py                # on a generated sample dataset
    python examples/train_lightning.py coco/

Lightning moves batches to the device, and with several devices sets a DistributedSampler and its epoch. A checkpoint
written in mid-epoch contains `loader.state_dict()`, so `trainer.fit(..., ckpt_path=...)` continues with the images not
yet seen.
"""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from tiny import TinyDetector, training_cache
from torch import Tensor

from fastload import Batch, FastLoader, RandomFlip, ShortestEdge


class Detector(L.LightningModule):
    """Trains TinyDetector, and counts its images."""

    def __init__(self) -> None:
        super().__init__()
        self.model = TinyDetector()
        self.images, self.losses = 0, list[float]()

    def on_train_epoch_start(self) -> None:
        self.images, self.losses = 0, []

    def training_step(self, batch: Batch, _: int) -> Tensor:
        images, targets = batch
        loss = torch.stack(list(self.model(list(images), list(targets)).values())).sum()
        self.log("loss", loss, batch_size=len(images), prog_bar=True)
        self.images += len(images)
        self.losses.append(float(loss))
        return loss

    def on_train_epoch_end(self) -> None:
        mean = sum(self.losses) / len(self.losses)
        print(f"epoch {self.current_epoch}: {self.images} images, loss {mean:.2f}")

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), 1e-3)


def main() -> None:
    L.seed_everything(0)
    loader = FastLoader(
        training_cache(),
        batch_size=8,
        shuffle=True,
        num_workers=2,
        dtype=torch.float32,
        transforms=[ShortestEdge(160, max_size=240), RandomFlip()],
    )
    trainer = L.Trainer(max_epochs=3, logger=False, enable_checkpointing=False, log_every_n_steps=1)
    trainer.fit(Detector(), loader)


if __name__ == "__main__":
    main()
