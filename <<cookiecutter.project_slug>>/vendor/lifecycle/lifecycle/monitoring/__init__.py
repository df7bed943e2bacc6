"""Monitor the release in service: drift, data quality, model quality, freshness, service; verdicts with hysteresis."""
