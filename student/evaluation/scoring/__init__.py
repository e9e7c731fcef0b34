"""Scoring: extraction of answers, metrics, intervals."""
