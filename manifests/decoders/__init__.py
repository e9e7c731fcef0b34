"""The two libraries that decode audio, and what both need: opening files, time lines, checks."""
