"""Who writes captions, who filters them, and what they must be."""
