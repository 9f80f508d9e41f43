"""What the workers of leased items share: the loop that answers a few at a time, and completions by the samplers."""
