"""Weights put into an engine that was built without them.

TensorRT's refitter takes weights by the names that they had in the network that was built, and takes them from an ONNX
model: from its initializers and its constants. The network that was built is made again from the ONNX file, and has to
come out the same byte for byte, which the manifest's hash tells. The full TensorRT and TensorRT-RTX work the same way
here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from deblur_deploy.core.artifact import Artifact
from deblur_deploy.core.errors import ArtifactError, DeblurDeployError
from deblur_deploy.graph.for_tensorrt import prepare_network, read_network
from deblur_deploy.graph.profile import Profile
from deblur_deploy.runtime.engine_fit import find_weights

_AGAIN = "build it again without --strip-weights"


def network_of(artifact: Artifact) -> bytes:
    """The network that an engine was built from, as the builder got it.

    Args:
        artifact: An engine that was built without its weights.

    Returns:
        A serialized ONNX model.

    Raises:
        ArtifactError: The ONNX file is not there, was changed, or no longer gives that network.
        BuildError: It is not a valid network.
    """
    figures, path = artifact.figures, find_weights(artifact)
    profiles = [_profile(known) for known in figures.get("profiles") or ()]
    network = prepare_network(read_network(path.read_bytes()), profiles, figures.get("plugin") != "none").network
    if hashlib.sha256(network).hexdigest() != figures.get("network_sha256"):
        built_with = artifact.history[-1].versions.get("onnx", "another version")
        raise ArtifactError(
            f"{path} does not give the network that {artifact.path} was built from, though the file is the same",
            hint=f"install the onnx that it was built with ({built_with}), or build the engine again on this machine",
        )
    return network


def refit(engine: Any, artifact: Artifact, trt: Any, logger: Any) -> None:
    """Put the weights of its ONNX file into an engine.

    Args:
        engine: TensorRT's ``ICudaEngine``, deserialized.
        artifact: What it was deserialized from.
        trt: The module of the TensorRT that built it.
        logger: TensorRT's logger, with the last complaint as ``last_error``.

    Raises:
        ArtifactError: The ONNX file is not there or was changed, or TensorRT does not find the weights in it.
        BuildError: The ONNX file is not a valid network.
        DeblurDeployError: TensorRT could not put the weights in.
    """
    network = network_of(artifact)
    refitter = trt.Refitter(engine, logger)
    # The parser owns the weights that it converted: it has to live until the engine has taken them.
    parser = trt.OnnxParserRefitter(refitter, logger)
    if not parser.refit_from_bytes(network):
        raise ArtifactError(
            f"TensorRT does not take the weights of {artifact.path} from its network: {_reason(parser, logger)}",
            hint=_AGAIN,
        )
    if missing := refitter.get_missing_weights():
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise ArtifactError(f"{artifact.path} lacks the weights {', '.join(missing[:3])}{more}", hint=_AGAIN)
    if not refitter.refit_cuda_engine():
        raise DeblurDeployError(
            f"TensorRT cannot put the weights into {artifact.path}: {logger.last_error}",
            hint=f"if memory ran out, end other programs on the GPU; else {_AGAIN}",
        )


def _reason(parser: Any, logger: Any) -> str:
    """The parser's errors, in one line."""
    told = [parser.get_error(index).desc() for index in range(parser.num_errors)]
    return " ".join("; ".join(told).split()) or str(logger.last_error)


def _profile(known: Mapping[str, Any]) -> Profile:
    """A range of shapes as the manifest has it."""
    return Profile(known["input"], *(tuple(known[end]) for end in ("min", "opt", "max")))
