"""Training: the one loop and what belongs to it, what drives it (float, joint, fine-tuning, calibration), its settings."""
