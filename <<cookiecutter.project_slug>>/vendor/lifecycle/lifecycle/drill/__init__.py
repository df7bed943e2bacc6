"""Faults injected into a temporary copy of the project, under load."""
