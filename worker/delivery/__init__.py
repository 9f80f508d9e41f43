"""What is told to the world outside: webhooks, trackers, hubs. The only part of a worker that needs a way out, and none
of it holds a job up: what is to be told is in the database, written with what happened, and is told from there."""
