"""What commands print: answers on standard output, tables for people."""
