"""Measurements against the physical limit and against what one would use instead."""
