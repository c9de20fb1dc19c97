"""Numbers and images, and what all floors use: errors, files, records. Knows no policy and no ONNX."""
