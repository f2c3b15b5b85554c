"""The network: backbones, feature pyramid, head, and the points that it predicts at."""
