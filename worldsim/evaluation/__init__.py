"""What a world is worth: control, objects, motion, fidelity, outcome, diversity and drift, as numbers and pictures."""
