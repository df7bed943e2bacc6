"""Read the prediction log, which outlives the server that writes it."""
