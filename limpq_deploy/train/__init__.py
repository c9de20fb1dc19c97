"""Training: the one loop, what drives it (float, joint, fine-tuning, calibration), its settings and checkpoints."""
