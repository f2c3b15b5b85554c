"""Building caches: `ingest` makes a record of a sample, `build` a cache of a dataset, `reencode` a cache of a cache."""
