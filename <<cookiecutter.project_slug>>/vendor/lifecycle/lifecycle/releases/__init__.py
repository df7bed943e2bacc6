"""The life of a pipeline result: run, tracked, registered. Knows nothing of what the model is about."""
