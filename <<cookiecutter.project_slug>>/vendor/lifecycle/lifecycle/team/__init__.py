"""A team's servers: check them, and start all of them on one machine."""
