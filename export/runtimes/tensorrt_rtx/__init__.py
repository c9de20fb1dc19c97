"""TensorRT for RTX: engines built ahead of time, without a GPU, and run where there is one."""
