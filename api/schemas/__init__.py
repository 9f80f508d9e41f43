"""Request and response bodies: OpenAI's objects with Attune's additional fields. One file for each resource."""
