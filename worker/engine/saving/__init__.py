"""Saved states and checkpoints: their folders, complete or absent, and the thread that writes them."""
