"""Networks that tests of ``infer`` use where only reading and writing count."""

from __future__ import annotations

from deblur_deploy.core.images import ImageSpec


class Identity:
    """A network that changes nothing."""

    name, image = "identity", ImageSpec()

    def infer(self, batch):
        return batch.copy()
