"""The integer program as mathematics: blocks, prices, bounds, proofs; `policy.blocks` writes layers as such."""
