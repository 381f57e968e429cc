"""Recruiting and fusion on recorded answers, with no engine."""
