"""Several answers to one: counting, choosing how, and what an aggregator is worth."""
