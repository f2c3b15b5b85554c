"""The engine that decodes and resamples with NVIDIA DALI."""
