"""The same questions as the miniature's, asked of a small student with a real language model."""
