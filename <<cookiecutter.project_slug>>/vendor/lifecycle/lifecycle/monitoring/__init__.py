"""What serves, watched: drift, data quality, model quality, freshness, service; verdicts with hysteresis."""
