"""The contract between the two stages: corpora, stream specs, the teacher cache's format."""
