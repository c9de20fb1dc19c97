"""Q/DQ in the target's dialect, written into a float template."""
