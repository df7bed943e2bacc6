"""Inject faults into a temporary copy of the project, under load."""
