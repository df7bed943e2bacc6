"""Prefect flows: thin, over functions that work without Prefect.

Prefect reads the environment when it is imported, so what it should find there is set here, before that.
"""

import os
from pathlib import Path

# Its database and profiles belong to the project, not to the person.
os.environ.setdefault("PREFECT_HOME", str(Path(".prefect").resolve()))
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("DO_NOT_TRACK", "1")
