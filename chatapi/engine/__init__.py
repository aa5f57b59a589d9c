"""Which model answers: a job → its card and fallbacks → the client, within the call's limits."""
