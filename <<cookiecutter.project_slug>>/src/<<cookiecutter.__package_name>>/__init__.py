"""The project: data, features, model and their history."""
