"""The command line: ``deblur-deploy COMMAND``.

The overview is printed from the table below, and a command's own module is imported only when it runs, so
``deblur-deploy --help`` answers at once and a command loads nothing that it does not need.
"""

from __future__ import annotations

import codecs
import io
import sys
import unicodedata

COMMANDS = {
    "demo": "the whole way on real photographs: prune, qat, ONNX, FP16 engine, benchmark, one table",
    "run": "run a recipe of stages with budgets; continues after the last finished stage",
    "import": "turn a trained checkpoint (.pth, .pt, .safetensors) into an artifact",
    "train": "train a generator on sharp photographs, from scratch or starting from another",
    "prune": "keep the strongest channels of every group, then fine-tune",
    "qat": "fake-quantize to INT8, calibrate, then fine-tune",
    "export-onnx": "write one ONNX file that every runtime reads",
    "export-trt": "build a TensorRT engine for a named card",
    "export-triton": "write a model repository for Triton Inference Server",
    "build-plugin": "compile the TensorRT plugin for trtexec and C++ programs",
    "eval": "PSNR and SSIM of an artifact on blurred/sharp pairs",
    "verify": "compare two artifacts on the same images",
    "infer": "deblur pictures, folders and videos",
    "bench": "time artifacts on every runtime that this machine has",
    "report": "one page of what compression cost and bought: photographs, charts, provenance",
    "doctor": "what this machine can do, what it lacks, and the command that fixes it",
    "inspect": "say what an artifact is: widths, sizes, history",
}
"""Command names and what they do, in the order in which they are used."""

_ERRORS = "deblur-deploy-plain"
_PLAIN = {"–": "-", "−": "-", "─": "-", "…": "...", "→": "->", "∞": "inf", "│": "|"} | dict.fromkeys("┬├┴┐┤└", "+")
"""Stand-ins for our own characters where the encoding lacks them."""


def main() -> None:
    """Run the command line; never returns normally, but raises SystemExit with the exit code."""
    print_what_cannot_be_encoded()
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("--help", "-h"):
        print(overview())
        raise SystemExit(0)
    name, *rest = arguments
    if name == "--version":
        from deblur_deploy import __version__

        print(__version__)
        raise SystemExit(0)
    if name not in COMMANDS:
        print(f"Error: there is no command {name!r}\nHint: {_nearest(name)}", file=sys.stderr)
        raise SystemExit(2)
    from deblur_deploy.core.threads import BusyWatch

    watch = BusyWatch()
    from deblur_deploy.cli.dispatch import run_command  # takes about as long as the watch needs

    watch.yield_if_shared()
    raise SystemExit(run_command(name, rest))


def overview() -> str:
    """The text of ``deblur-deploy --help``."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name.ljust(width)}  {summary}" for name, summary in COMMANDS.items()]
    return "\n".join(
        [
            "Usage: deblur-deploy COMMAND [ARGUMENTS] [--help]",
            "",
            "From a trained deblurring generator to a fast engine, with the cost of every step in dB and milliseconds.",
            "",
            *lines,
            "",
            "Start with `deblur-deploy demo`. `deblur-deploy COMMAND --help` explains a command.",
        ]
    )


def _nearest(name: str) -> str:
    import difflib

    near = difflib.get_close_matches(name, COMMANDS, n=1)
    return f"did you mean `deblur-deploy {near[0]}`?" if near else "`deblur-deploy --help` lists them"


def print_what_cannot_be_encoded() -> None:
    """Write a plain stand-in for a character that the encoding of stdout or stderr lacks, where Python would raise.

    The bytes of a file name that is not text in the system's encoding are written as they are.
    """
    codecs.register_error(_ERRORS, _plainly)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_ERRORS)


def _plainly(error: UnicodeError) -> tuple[bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return b"".join(map(_stand_in, error.object[error.start : error.end])), error.end


def _stand_in(character: str) -> bytes:
    if "\udc80" <= character <= "\udcff":  # a byte that Python could not decode
        return bytes([ord(character) - 0xDC00])
    plain = _PLAIN.get(character) or unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
    return (plain or "?").encode("ascii")
