"""Sources: datasets of any layout as a sequence of samples. `base` is what they have in common, `detect` finds them."""
