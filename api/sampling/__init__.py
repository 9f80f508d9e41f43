"""Trying models out: what can be asked, and the letterbox in Redis between the API and the samplers."""
