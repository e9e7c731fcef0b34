"""`coat-student report`: training runs as one HTML page, beside each other and the cache."""
