"""The network: backbones, necks, heads, and the grid of points at which they predict."""
