"""One file for each family of commands, thin over the library."""
