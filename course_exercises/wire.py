"""Plain data as bytes and back, without pickle, since what a student's process sends is not trusted."""

from __future__ import annotations

import json
import struct
from typing import Any, BinaryIO

import torch

LARGEST = 64 * 2**20  # bytes of a message
KINDS = {str(kind): kind for kind in (torch.float64, torch.float32, torch.int64, torch.int32, torch.uint8, torch.bool)}


class WireError(Exception):
    """What came is no message."""


def encode(data: Any) -> bytes:
    """Numbers, words, lists, dicts with words as keys, and tensors as one message."""
    blobs: list[bytes] = []

    def pack(part: Any) -> Any:
        if isinstance(part, torch.Tensor):
            part = part.detach().cpu().contiguous()
            part = part if str(part.dtype) in KINDS else part.double()
            blobs.append(bytes(part.reshape(-1).view(torch.uint8).numpy()) if part.numel() else b"")
            return {"$tensor": [str(part.dtype), list(part.shape), len(blobs[-1])]}
        if isinstance(part, (list, tuple)):
            return [pack(each) for each in part]
        if isinstance(part, dict):
            return {"$dict": [[str(key), pack(each)] for key, each in part.items()]}
        if part is None or isinstance(part, (bool, int, float, str)):
            return part
        raise WireError(f"a {type(part).__name__} is not plain data")

    head = json.dumps(pack(data)).encode()
    return struct.pack(">II", len(head), sum(map(len, blobs))) + head + b"".join(blobs)


def decode(head: bytes, body: bytes) -> Any:
    """What `encode` packed; raises WireError for anything else."""
    place = 0

    def unpack(part: Any) -> Any:
        nonlocal place
        if isinstance(part, list):
            return [unpack(each) for each in part]
        if isinstance(part, dict):
            if "$tensor" in part:
                kind, shape, size = part["$tensor"]
                piece = body[place : place + size]
                place += size
                if not size:
                    return torch.empty(shape, dtype=KINDS[kind])
                return torch.frombuffer(bytearray(piece), dtype=KINDS[kind]).reshape(shape)
            return {key: unpack(each) for key, each in part["$dict"]}
        return part

    try:
        return unpack(json.loads(head))
    except Exception as error:
        raise WireError(f"no message: {error}") from error


def read(file: BinaryIO) -> Any:
    """The next message of a file; raises EOFError at its end and WireError for what is none."""
    lengths = _exactly(file, 8)
    head, body = struct.unpack(">II", lengths)
    if head + body > LARGEST:
        raise WireError(f"a message of {head + body:,} bytes")
    return decode(_exactly(file, head), _exactly(file, body))


def _exactly(file: BinaryIO, count: int) -> bytes:
    found = b""
    while len(found) < count:
        if not (part := file.read(count - len(found))):
            raise EOFError
        found += part
    return found
