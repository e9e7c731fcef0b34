"""Corpora: their rows, sources and statistics."""
