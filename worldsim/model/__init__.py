"""Networks only: nothing here knows of Gymnasium, pygame, Hydra, or how a frame is stored."""
