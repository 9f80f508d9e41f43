"""Supervision of jobs: claim, fetch, run a child, store its outputs. Nothing here imports torch."""
