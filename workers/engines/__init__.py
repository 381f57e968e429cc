"""Engines: prompts in, completions out. `catalogue.open_engine` picks the one that a model needs."""
