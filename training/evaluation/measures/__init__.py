"""What is measured of a picture: does it follow the prompt, the reference, is it a sketch at all."""
