"""The network: backbones, feature pyramid, head, and the grid of points at which it predicts."""
