"""Techniques that peft does not have. A file here is the twin of one in api/techniques; the others are peft's work."""
