"""The NVIDIA driver, device memory, and what a GPU did meanwhile."""
