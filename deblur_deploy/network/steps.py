"""Names of the tensors with which a temporal network is driven frame by frame; nothing heavy is imported for them."""

STEP_INPUTS = ("blurred", "before", "state", "flow", "trust")
STEP_OUTPUTS = ("restored", "state_out")
"""What exported files and engines call the inputs and outputs of a ``TemporalStep`` (see ``temporal.py``)."""
