"""Latency in the program and held against the budget: profiles, rounds, studies, comparisons."""
