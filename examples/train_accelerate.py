"""FastLoader in Hugging Face Accelerate: `accelerator.prepare` takes it as any DataLoader.

    python examples/train_accelerate.py               # on a generated sample dataset
    accelerate launch examples/train_accelerate.py coco/

The prepared loader shares each epoch among the processes, moves batches to the device, and marks the last batch for
gradient accumulation. `accelerator.save_state` saves its position, also in mid-epoch. After `load_state` just iterate:
there are no batches to skip.
"""

from __future__ import annotations

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from tiny import TinyDetector, training_cache

from fastload import FastLoader, RandomFlip, ShortestEdge


def main() -> None:
    set_seed(0)
    accelerator = Accelerator(gradient_accumulation_steps=2)
    model = TinyDetector()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    loader = FastLoader(
        training_cache(),
        batch_size=8,
        shuffle=True,
        num_workers=2,
        dtype=torch.float32,
        transforms=[ShortestEdge(160, max_size=240), RandomFlip()],
    )
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    for epoch in range(3):
        loader.set_epoch(epoch)
        images_seen, losses = 0, []
        for images, targets in loader:
            with accelerator.accumulate(model):
                loss = torch.stack(list(model(list(images), list(targets)).values())).sum()
                accelerator.backward(loss)
                optimizer.step()
                optimizer.zero_grad()
            images_seen += len(accelerator.gather_for_metrics(targets.image_id))
            losses.append(accelerator.gather(loss.detach()).mean())
        accelerator.print(f"epoch {epoch}: {images_seen} images, loss {torch.stack(losses).mean():.2f}")


if __name__ == "__main__":
    main()
