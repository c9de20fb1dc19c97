"""Latency in the program and held against the budget: tables as costs, rounds, studies, comparisons."""
