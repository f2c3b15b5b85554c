"""The `fastload` command: a file for each group of commands, without logic of its own."""
