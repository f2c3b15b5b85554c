"""Inference: turns predictions into detections, draws and evaluates them."""
