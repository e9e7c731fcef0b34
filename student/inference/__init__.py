"""Inference: answers, conversations, head outputs."""
