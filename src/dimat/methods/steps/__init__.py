"""Methods that exchange with every step of training."""
