"""How much each tensor matters at each bit-width: the paper's learned scales, and rivals from the same network."""
