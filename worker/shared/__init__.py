"""Modules that the supervisor and its child processes share. None of them imports torch."""
