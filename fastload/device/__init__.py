"""Batches in floating point, and on their way to a device."""
