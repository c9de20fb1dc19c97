"""The integer program as mathematics: blocks, prices, bounds, proofs; `search.blocks` writes layers as such."""
