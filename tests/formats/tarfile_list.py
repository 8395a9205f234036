"""Lists tars with Python's tarfile: a path a line in, a JSON object a line out."""

import hashlib
import json
import os
import sys
import tarfile

WHOLE = 1 << 20


def hexed(name):
    return name.encode("utf-8", "surrogateescape").hex()


def kind(member):
    # isreg() holds for sparse and contiguous files as well.
    for letter, holds in zip("dlhcbp-", (
        member.isdir(), member.issym(), member.islnk(), member.ischr(),
        member.isblk(), member.isfifo(), member.isreg(),
    )):
        if holds:
            return letter
    return "?"


def content(archive, member):
    if not member.isreg() or member.size > WHOLE:
        return ""
    try:
        return hashlib.sha256(archive.extractfile(member).read()).hexdigest()
    except Exception as error:
        return f"error: {error!r}"


def members(path):
    with tarfile.open(path, "r:", encoding="utf-8", errors="surrogateescape", errorlevel=2) as archive:
        for member in archive:
            yield {
                "name": hexed(member.name),
                "kind": kind(member),
                "size": str(member.size),
                "mode": member.mode & 0o7777,
                "uid": str(member.uid),
                "gid": str(member.gid),
                "mtime": repr(float(member.mtime)),
                "link": hexed(member.linkname),
                "device": [str(member.devmajor), str(member.devminor)],
                "xattrs": {
                    hexed(key.removeprefix("SCHILY.xattr.")): hexed(value)
                    for key, value in member.pax_headers.items()
                    # Go, and so the runtimes, take an empty one for none.
                    if key.startswith("SCHILY.xattr.") and value
                },
                "content": content(archive, member),
            }


for line in sys.stdin:
    listing = {"members": [], "error": None}
    try:
        for member in members(line.rstrip("\n")):
            listing["members"].append(member)
    except Exception as error:
        listing["error"] = repr(error)
    print(json.dumps(listing))
