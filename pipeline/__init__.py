"""Stage 1: a Ray job that runs the teachers over a corpus and fills the teacher cache."""
