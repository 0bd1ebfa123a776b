"""From a PyTorch model to a bundle: trace, canonical ops, features, checks."""
