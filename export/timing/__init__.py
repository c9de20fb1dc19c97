"""Latency: protocol, statistics, reports, tables, profiles, audits."""
