"""What goes out: OpenAI's objects, with what Attune adds beside their fields. One file for each resource."""
