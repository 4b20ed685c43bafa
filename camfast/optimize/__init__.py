"""Faster forms of a model, made of its graph and beside it: the model itself is never touched.

split     the graph in two, at the target layer
simplify  BatchNorm folded into convolutions, and what else a graph can do without
onednn    convolutions of the CPU with packed weights, and with what follows them
compiled  torch.compile with frozen weights, a variant a shape
graphs    CUDA graphs of whole explanations
"""
