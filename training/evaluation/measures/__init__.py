"""What is measured: does a picture follow prompt and reference, is it a sketch at all."""
