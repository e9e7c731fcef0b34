"""The model: backbone, block, adapters, heads."""
