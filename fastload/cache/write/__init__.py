"""Making caches: `ingest` turns a sample into a record, `build` a dataset into a cache,
`reencode` a cache into another.
"""
