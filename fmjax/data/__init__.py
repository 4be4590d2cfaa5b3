"""Sources -> transforms -> batches, tokenizers, augmentation."""
