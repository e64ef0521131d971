"""Reading and writing files: checkpoints, weights, exports."""
