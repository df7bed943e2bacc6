"""The HTTP server, its prediction log, and features by key."""
