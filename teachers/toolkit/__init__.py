"""Tools that adapters share: frame grids, windows, front ends, checkpoints, decoding."""
