"""A miniature experiment on real audio: compares coat with its controls and tests the block."""
