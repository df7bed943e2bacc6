"""The life of a pipeline result: run, tracked, released, promoted, rolled back. Does not know the model's subject."""
