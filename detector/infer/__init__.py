"""From predictions to detections, and what they are worth."""
