"""Model repositories, and servers that run them."""
