"""The log of predictions, for those who read it: it outlives the server that writes it."""
