"""Opening and reading caches: single files, or several files as one cache."""
