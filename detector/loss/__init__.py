"""What a training step minimizes: which points learn which box, and the losses there."""
