"""The stages of any project, as dvc.yaml runs them: landing files through the gate, and running dbt."""
