"""Trying models out: the bodies of requests, and the letterbox in Redis between the API and the samplers."""
