"""Feeds mutated files to every reader: ``python -m tests.fuzz --count 2000`` (CONTRIBUTING.md).

Each input comes from a small valid data set, in which one file is changed; it is read in a process
of its own, forked from this one. Good is a result, or one sentence (`wsis.errors.explain`), within
30 s and 1.5 GB. Anything else is a finding: its folder is kept, and ``--only READER --seed N
--count 1`` repeats it.
"""

from __future__ import annotations

import argparse
import copy
import io
import json
import logging
import os
import pickle
import random
import re
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import yaml
from wsis.errors import explain

import tests.fuzz_formats  # noqa: F401  (registers its readers)
from tests.fuzz_readers import READERS

MAX_SECONDS, MAX_BYTES = 30, 1536 << 20
EXTREMES = (
    *(
        0,
        -1,
        1,
        255,
        256,
        65536,
        2**31 - 1,
        2**31,
        2**32,
        2**63,
        10**40,
        134_000_000,
        1e308,
        -1e308,
    ),
    *(0.5, float("nan"), float("inf"), True, None, "", "x" * 300, "a/../../b", "/dev/zero", "."),
    *("\0", "é", "\ud800", "1e999", [], {}, [[]], [1] * 5000, {"a": {"b": []}}, [1e308] * 4),
)
Mutation = Callable[[bytes, random.Random], bytes]


def flip(data: bytes, dice: random.Random) -> bytes:
    """One to eight bytes changed."""
    found = bytearray(data)
    for _ in range(dice.randint(1, 8)):
        found[dice.randrange(len(found))] = dice.choice((0, 1, 127, 128, 255, dice.randrange(256)))
    return bytes(found)


def cut(data: bytes, dice: random.Random) -> bytes:
    """The beginning, or all but a piece in the middle."""
    start = dice.randrange(len(data))
    return data[:start] + dice.choice((b"", data[start + dice.randint(1, 64) :]))


def repeat(data: bytes, dice: random.Random) -> bytes:
    """A piece of it up to 2000 times."""
    start = dice.randrange(len(data))
    piece = data[start : start + dice.randint(1, 200)]
    return data[:start] + piece * dice.choice((2, 3, 40, 2000)) + data[start:]


def number(data: bytes, dice: random.Random) -> bytes:
    """A number in text, or four bytes, become an extreme one."""
    places = list(re.finditer(rb"-?\d+(\.\d+)?", data))
    if places and dice.random() < 0.7:
        start, end = dice.choice(places).span()
        return data[:start] + str(dice.choice(EXTREMES)).encode("utf-8", "replace") + data[end:]
    start = dice.randrange(max(len(data) - 3, 1))
    value = dice.choice((0, 1, 2**16, 2**27, 2**31 - 1, 2**31, 2**32 - 1))
    return data[:start] + struct.pack(dice.choice("<>") + "I", value) + data[start + 4 :]


def encoding(data: bytes, dice: random.Random) -> bytes:
    """Text in another encoding, with a byte order mark or without."""
    name = dice.choice(("utf-16", "utf-16-be", "utf-32", "utf-8-sig", "utf-7", "cp037"))
    return data.decode("latin1").encode(name, "replace")


def change_a_value(value: object, dice: random.Random) -> None:
    """One of plain values is replaced, removed, repeated or nested deeply, in place."""
    nodes = [value]
    for node in nodes:
        parts = node.values() if isinstance(node, dict) else node
        nodes += [part for part in parts if isinstance(part, dict | list)]
    node = dice.choice([found for found in nodes if found] or [[0]])
    key = dice.choice(list(node) if isinstance(node, dict) else range(len(node)))
    way = dice.randrange(6)
    if way < 3:
        node[key] = copy.deepcopy(dice.choice(EXTREMES))
    elif way == 3:
        del node[key]
    elif way == 4 and isinstance(node, list):
        node.extend([node[key]] * dice.choice((1, 300)))
    else:
        for _ in range(dice.choice((1, 50, 900))):
            node[key] = [node[key]]


def structure(data: bytes, dice: random.Random) -> bytes:
    """JSON, YAML or a pickle of which one to three values change."""
    kind = "pickle" if data[:1] == b"\x80" else "json" if data[:1] in b"[{" else "yaml"
    read = {"pickle": pickle.loads, "json": json.loads, "yaml": yaml.safe_load}[kind]
    value = read(data)  # a pickle of our own making
    for _ in range(dice.randint(1, 3)):
        change_a_value(value, dice)
    if kind == "pickle":
        return pickle.dumps(value, protocol=dice.choice((0, 2, 4)))
    text = json.dumps(value) if kind == "json" else yaml.safe_dump(value, allow_unicode=True)
    return text.encode("utf-8", "replace")


def member(data: bytes, dice: random.Random) -> bytes:
    """A zip (``.npz``, ``.pth``) of which one member changes, its checksum with it."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        parts = [(entry, archive.read(entry)) for entry in archive.infolist()]
    chosen, packed = dice.randrange(len(parts)), io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for index, (entry, content) in enumerate(parts):
            if index == chosen and content:
                content = dice.choice((flip, cut, number, repeat))(content, dice)
                entry.compress_type = dice.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
            archive.writestr(entry, content)
    return packed.getvalue()


def chunk(data: bytes, dice: random.Random) -> bytes:
    """A PNG of which one chunk changes, its checksum with it."""
    place, chunks = 8, []
    while place < len(data):
        (length,) = struct.unpack(">I", data[place : place + 4])
        chunks.append((data[place + 4 : place + 8], data[place + 8 : place + 8 + length]))
        place += 12 + length
    name, content = chunks[index := dice.randrange(len(chunks))]
    chunks[index] = (name, dice.choice((flip, cut, number, repeat))(content or b"\0", dice))
    made = [
        struct.pack(">I", len(part)) + name + part + struct.pack(">I", zlib.crc32(name + part))
        for name, part in chunks
    ]
    return data[:8] + b"".join(made)


ALWAYS: tuple[Mutation, ...] = (flip, cut, repeat, number)
BY_SUFFIX: dict[str, tuple[Mutation, ...]] = {  # what knows the format comes more often
    **dict.fromkeys((".json", ".yaml", ".pkl"), (structure,) * 8),
    **dict.fromkeys((".xml", ".txt"), (number, number, number, encoding)),
    **dict.fromkeys((".npz", ".pth"), (member,) * 6),
    ".png": (chunk,) * 4,
}


def mutate(folder: Path, dice: random.Random) -> str:
    """Change one file of a folder; returns how."""
    path = dice.choice(sorted(path for path in folder.rglob("*") if path.is_file()))
    change, data = dice.choice(ALWAYS + BY_SUFFIX.get(path.suffix, ())), path.read_bytes()
    try:
        path.write_bytes(change(data, dice))
    except (RecursionError, OverflowError, ValueError, zipfile.BadZipFile):  # cannot be written
        path.write_bytes(cut(data, dice))
    return f"{change.__name__} of {path.name}"


def verdict_in_child(read: Callable[[Path], object], folder: Path) -> str:
    """ "result", "sentence" or a traceback."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2 * MAX_BYTES,) * 2)  # spares the machine
    try:
        read(folder)
    except Exception as error:
        said = explain(error)
        return "sentence" if said and len(said[0]) < 2000 else traceback.format_exc()
    return "result"


def judge(read: Callable[[Path], object], folder: Path) -> str:
    """ "result", "sentence", or what is wrong."""
    receive, send = os.pipe()
    if (pid := os.fork()) == 0:
        os.write(send, verdict_in_child(read, folder).encode(errors="replace")[-4000:])
        os._exit(0)
    os.close(send)
    start, ended = time.monotonic(), 0
    while not ended and time.monotonic() - start < MAX_SECONDS:
        time.sleep(0.002)
        ended, status, used = os.wait4(pid, os.WNOHANG)
    if not ended:
        os.kill(pid, signal.SIGKILL)
        os.wait4(pid, 0)
    with open(receive, "rb") as stream:
        verdict = stream.read().decode(errors="replace")
    if not ended:
        return f"hangs for {MAX_SECONDS} s"
    if used.ru_maxrss << 10 > MAX_BYTES:
        verdict = f"takes {used.ru_maxrss >> 10} MB; {verdict}"
    return f"ends with status {status}; {verdict}" if status else verdict


def main(arguments: list[str]) -> int:
    """Run; the exit code is 1 where there are findings."""
    parser = argparse.ArgumentParser(description="Feed mutated files to every reader.")
    parser.add_argument("--count", type=int, default=1000, help="inputs over all readers")
    parser.add_argument("--seed", type=int, default=0, help="of the first input")
    parser.add_argument("--only", choices=sorted(READERS), help="one reader")
    parser.add_argument("--findings", default="fuzz_findings", help="folder that keeps them")
    args = parser.parse_args(arguments)
    logging.disable(logging.CRITICAL)
    names, counts = [args.only] if args.only else sorted(READERS), Counter[str]()
    with tempfile.TemporaryDirectory() as work:
        for name in names:
            READERS[name].make(Path(work, name))
            found = judge(READERS[name].read, Path(work, name))
            assert found == "result", f"{name} does not read its own seed: {found}"
        for seed in range(args.seed, args.seed + args.count):
            name, dice = names[seed % len(names)], random.Random(seed)
            folder = shutil.copytree(Path(work, name), Path(work, "input"))
            how, found = mutate(folder, dice), judge(READERS[name].read, folder)
            counts[found if found in ("result", "sentence") else "finding"] += 1
            if found not in ("result", "sentence"):
                sys.stdout.write(f"{name}, seed {seed}, {how}: {found}\n")
                sys.stdout.flush()
                shutil.copytree(folder, Path(args.findings, f"{name}-{seed}"), dirs_exist_ok=True)
            shutil.rmtree(folder)
    sys.stdout.write(f"{args.count} inputs: {dict(counts)}\n")
    return int(counts["finding"] > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
