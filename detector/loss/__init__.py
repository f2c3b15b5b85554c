"""The training loss: assignment of boxes to points, and the losses at those points."""
