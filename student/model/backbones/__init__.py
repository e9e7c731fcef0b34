"""One small adapter per large audio language model."""
