"""The HTTP server, its prediction log, and feature lookup by key."""
