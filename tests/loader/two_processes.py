"""Run by test_fits_in in two processes: Accelerate's epoch is shared by them."""

from __future__ import annotations

import torch
from accelerate import Accelerator

from fastload import FastLoader
from tests.support.memory_cache import MemoryCache


def main() -> None:
    accelerator = Accelerator(cpu=True)
    cache = MemoryCache(37)
    torch.manual_seed(accelerator.process_index)  # seeds that differ: the ranks must agree nevertheless
    data = accelerator.prepare(FastLoader(cache, 4, shuffle=True, num_workers=1))
    assert accelerator.num_processes == 2 and len(data) == 5
    for _ in range(2):
        seen, steps = [], 0
        for images, targets in data:
            steps += 1
            assert len(images) == len(targets)
            seen += accelerator.gather_for_metrics(targets.image_id).tolist()
        assert steps == 5 and sorted(seen) == cache.image_ids.tolist(), seen
    accelerator.print("every image once")
    accelerator.end_training()


if __name__ == "__main__":
    main()
