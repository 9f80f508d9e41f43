"""Rollouts: sampling answers from the model in training, and rewarding them."""
