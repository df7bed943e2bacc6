"""Trace and impact analysis, computed from records, compiled SQL and the ledger; nothing is stored separately."""
