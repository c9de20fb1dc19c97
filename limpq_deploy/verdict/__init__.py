"""What was promised, counted and judged."""
