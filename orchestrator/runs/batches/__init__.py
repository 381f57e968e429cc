"""Batches: OpenAI's, from a file of chat requests to the files of their answers."""
