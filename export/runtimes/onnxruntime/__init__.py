"""ONNX Runtime on a CPU and through its CUDA provider."""
