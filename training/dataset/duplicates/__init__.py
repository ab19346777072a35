"""Which pictures are alike, in which way, and which one stands for them."""
