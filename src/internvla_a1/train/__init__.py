"""Imitation training: flow matching and foresight losses, resumable to the bit, on one device or many."""
