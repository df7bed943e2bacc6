"""Trace and impact: read from records, compiled SQL and the ledger, and not stored separately."""
