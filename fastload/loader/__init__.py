"""FastLoader and its parts, in the order in which a batch meets them: `fast_loader` (the arguments), `dataset`,
`sampling` and `sampler_order` (which images), `planner` (the plan), `iterator` (what is in flight), `finisher` (what
the user receives); and beside them `state`, `stats`, `report`, `ranks` and `accelerate`.
"""
