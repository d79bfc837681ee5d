"""Files in the box: `worlds/<name>/` holds a trained world each."""
