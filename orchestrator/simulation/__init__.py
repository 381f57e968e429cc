"""The residency plan on a simulated clock: the very function that the dispatcher calls, and what it is held against."""
