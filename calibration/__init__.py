"""Numbers: grids, scales and batches of images. Knows no policy and no ONNX."""
