"""Stage 2: trains a large audio language model from the teacher cache, with no expert in memory."""
