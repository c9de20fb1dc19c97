"""Grids, quantization parameters, first scales. No torch but tensors handed in."""
