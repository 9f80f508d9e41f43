"""Everything between the socket and a route."""
