"""The worker processes. A supervisor claims jobs and never imports torch. The child processes that it starts do the
work, without database, storage or secrets: "behind the wall" (docs/internals/wall.md)."""
