"""ONNX files: made from torch, read, checked, folded, split, stored. Only `from_torch` knows torch."""
