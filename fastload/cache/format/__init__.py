"""The cache file format: `layout` describes it, the other modules write and parse its parts."""
