"""`worldsim distill`: fewer denoising steps for what a teacher does in many, one way a file."""
