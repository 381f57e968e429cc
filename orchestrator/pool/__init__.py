"""The experts, what they are known to do, and how they come into the pool."""
