"""FastLoader and its parts.

A batch passes through them in this order: `fast_loader` and `arguments` (the settings), `dataset`, `sampling` and
`sampler_order` (which images), `planner` (the plan), `iterator` (batches in flight), `finisher` (what the user
receives). `state`, `stats`, `report`, `ranks` and `accelerate` serve all of them.
"""
