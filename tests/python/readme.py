#!/usr/bin/env python3
"""Does what the README tells a client's author to do: makes the stubs, runs the Python block as it stands.

    python readme.py 127.0.0.1:50051

Only the address differs from the README's. Exits with 0 when the block's labels were accepted.
"""

import io
import os
import re
import shlex
import subprocess
import sys
import tempfile
from contextlib import redirect_stdout
from pathlib import Path

from client import png

ROOT = Path(__file__).resolve().parents[2]
PICTURES = 12


def block(text, language, holding):
    """The one fenced block of a language that holds a word."""
    found = [body for body in re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL) if holding in body]
    assert len(found) == 1, f"README.md has {len(found)} {language} blocks with {holding!r}, one is wanted"
    return found[0]


def main():
    address = sys.argv[1]
    text = (ROOT / "README.md").read_text()
    protoc = shlex.split(block(text, "sh", "grpc_tools.protoc"))
    assert protoc[0] == "python" and protoc[-1].startswith("proto/"), protoc
    protos = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob(protoc[-1]))
    walk = block(text, "python", "NextBatch")
    assert "127.0.0.1:50051" in walk

    with tempfile.TemporaryDirectory() as folder:
        out = [word.replace("_out=.", f"_out={folder}") for word in protoc[1:-1]]
        subprocess.run([sys.executable, *out, *protos], cwd=ROOT, check=True)
        pictures = Path(folder, "pictures")
        pictures.mkdir()
        for index in range(PICTURES):
            (pictures / f"sign-{index:02}.png").write_bytes(png(index))
        sys.path.insert(0, folder)
        os.chdir(folder)
        said = io.StringIO()
        with redirect_stdout(said):
            exec(compile(walk.replace("127.0.0.1:50051", address), "README.md", "exec"), {})
    said = said.getvalue()
    print(said)
    assert f"added_count: {PICTURES}" in said, "the samples were not all added"
    assert " nats" in said, "no query was dealt"
    assert "CODE_ACCEPTED" in said, "no label was accepted"
    print("the README's client works as written")


if __name__ == "__main__":
    main()
