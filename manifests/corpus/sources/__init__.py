"""What a corpus can be built from; each source is one module that yields clips in a stream."""
