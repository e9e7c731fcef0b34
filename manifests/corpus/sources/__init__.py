"""Sources of corpora. Each source is one module that yields clips in a stream."""
