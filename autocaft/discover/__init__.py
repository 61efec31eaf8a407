"""What did fine-tuning change?  collect (activations) -> decompose (PCs, SAE latents) -> mine (windows to read)."""
