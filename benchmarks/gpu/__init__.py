"""Measurements on a GPU, as one command; at toy size on a machine without one."""
