"""Faults injected for real into a throw-away copy of the project, under load."""
