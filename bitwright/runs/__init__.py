"""Runs: the request, the folder that holds one job, and the stages that fill it."""
