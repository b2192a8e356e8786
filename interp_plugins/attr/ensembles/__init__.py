"""Methods around another method: noise tunnel, augmentation, averages over layers and checkpoints."""
