"""Modules that both sides of the wall use."""
