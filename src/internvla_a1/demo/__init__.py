"""`internvla-a1 demo`: the whole stack sorts parcels from a moving belt, is measured while it does, and writes a report."""
