"""Runs: submitted, taken from stage to stage, reported."""
