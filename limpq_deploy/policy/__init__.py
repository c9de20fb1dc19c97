"""Which bits a layer gets: costs, budgets, restrictions, the search itself, and what explains its answer. No torch."""
