"""Distillation: streams, alignment to the student's frames, losses, metrics."""
