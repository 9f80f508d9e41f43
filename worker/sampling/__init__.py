"""Sampling from base and tuned models, behind the wall."""
