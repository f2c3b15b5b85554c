"""Opening caches and reading them, one or several as one."""
