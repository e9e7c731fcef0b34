"""Training: trainer, validation, memory."""
