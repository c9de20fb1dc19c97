"""The quantized torch model, and its integers as the target executes them."""
