"""How pictures are sketched, what goes wrong there, and how it is put right."""
