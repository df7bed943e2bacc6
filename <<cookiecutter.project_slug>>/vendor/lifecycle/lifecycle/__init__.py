"""Lineage, releases, serving and monitoring for a project that DVC, dbt, MLflow and Prefect run."""

__version__ = "0.2.0"
