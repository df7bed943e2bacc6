"""Where everything came from and what it reached: read from records, compiled SQL and the ledger, never noted twice."""
