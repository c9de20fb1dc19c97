"""What a network is for: what teaches it, how its outputs are compared, and the figure that people know it by."""
