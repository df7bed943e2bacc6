"""The life of a pipeline result: run, track, release, promote, roll back. Knows nothing about the model's subject."""
