"""Prefect flows: thin, over functions that work without Prefect."""
