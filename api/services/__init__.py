"""Services: decisions that can be tested without HTTP. Each loads, decides, writes in one transaction, then rings."""
