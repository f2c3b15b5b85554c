"""Sources: readers of dataset formats. `base` defines what a source is, `detect` finds the datasets in a folder."""
