"""Entries that no catalogue has: one of each kind. tests/test_extension.py adds them to a copy of the project."""
