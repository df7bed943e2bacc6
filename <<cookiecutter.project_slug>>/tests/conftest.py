"""The project's own tests: on small made-up data (synthetic.py), on real DVC, dbt, MLflow, Prefect and git."""

from lifecycle.testing.projects import *  # noqa: F403  projects to work on
