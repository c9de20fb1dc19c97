"""What a command ends with, beside 0 for done, 1 for an error and 2 for wrong usage."""

FAILED = 3
"""Done, but a check or a comparison failed."""

INTERRUPTED, TERMINATED = 130, 143
"""After Ctrl-C and after SIGTERM, which training answers at the end of a step."""
