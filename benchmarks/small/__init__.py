"""The miniature experiment with a small student that has a pretrained language model."""
