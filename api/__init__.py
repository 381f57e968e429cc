"""HTTP only: validate, authenticate, hand over, stream back. No decisions, no SQL."""
