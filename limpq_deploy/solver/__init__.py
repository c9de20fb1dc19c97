"""The integer program as mathematics: blocks, prices, bounds, proofs; `limpq_deploy.blocks` writes layers as such."""
