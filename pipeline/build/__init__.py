"""The build: planning, scheduling, workers, failures, progress."""
