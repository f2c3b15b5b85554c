"""Normalizes batches and copies them to a device."""
