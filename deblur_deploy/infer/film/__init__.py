"""Films: what the network does not change stays, and what cannot be kept is reported."""
