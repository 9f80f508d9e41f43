"""Modules that the supervisor and its child processes share. Only embedding_model.py imports torch."""
