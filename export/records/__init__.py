"""What travels between floors: target, placement, versions of TensorRT, engine settings and records, environment."""
