"""Plans: batches described by NumPy arrays, before any pixel is read."""
