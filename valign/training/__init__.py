"""Pairs -> weights: the noise, the losses, the policy and its reference, the engine and the loop.

`batches` says which pairs a step sees, `noise` what is added to them, `policy` turns them into
denoising errors, `losses` turns errors into a loss, `engine` turns a loss into new weights, and
`loop` strings these together. No Ray and no storage here.
"""
