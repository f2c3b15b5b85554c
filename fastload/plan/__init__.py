"""Plans: a batch as numbers, before a pixel is touched. Needs NumPy only."""
