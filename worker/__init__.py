"""The worker processes. A supervisor claims jobs and never imports torch. Its child processes do the work. They have no
access to the database, the storage or secrets: they run "behind the wall" (docs/internals/wall.md)."""
