"""`python -m fastload` is the `fastload` command."""

from fastload.cli.app import main

main()
