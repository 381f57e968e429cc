"""Decides and remembers: the pool, recruiting, fusion, runs, the residency plan, dispatch, storage."""
