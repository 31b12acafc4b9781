"""The mathematics: vectors of parameters, batches of rows, losses, and the oracle that runs the model."""
