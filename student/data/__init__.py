"""Training data: examples, prompts, batches."""
