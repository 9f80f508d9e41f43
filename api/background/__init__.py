"""Code that the batch worker and the evaluation worker share: the loop that claims and answers items, and completions
by the samplers."""
