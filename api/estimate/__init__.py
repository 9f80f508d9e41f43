"""What a job will take, before it runs: weights trained, memory, time. Pure, and without torch."""
