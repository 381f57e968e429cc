"""Turns prompts into completions on a device. Knows no run, no profile and no SQL."""
