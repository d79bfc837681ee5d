"""What a world is worth: control, objects, fidelity, outcome and drift, as numbers and pictures."""
