"""Multi-head attention, its weight functions, norms, masks and backends."""
