"""One adapter for each family of experts."""
