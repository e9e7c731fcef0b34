"""Measurements of speed and size, compared with theoretical limits and with alternatives."""
