"""Benchmarks: one command each, from the checkpoint to a table and a JSON file with the raw samples."""
