"""The legacy route's end: when it is served, what its requests become, and who still sends them."""
