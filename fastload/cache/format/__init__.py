"""What lies in a cache file: `layout` describes it, the other modules write and parse its parts."""
