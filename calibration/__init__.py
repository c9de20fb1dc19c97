"""Numbers and images: errors, files and records that all floors use; grids, scales, data sets. Knows no policy, no ONNX."""
