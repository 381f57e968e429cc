"""Units on their way to workers and back."""
