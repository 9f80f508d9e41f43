"""`attune import`: move fine-tuning from OpenAI, or from another server with OpenAI's API, to this one."""
