"""write PATH: a layer of what is hard to tar. dump PATH…: what the archives hold,
laid over each other, as JSON."""

import hashlib
import io
import json
import sys
import tarfile

TEXT = {"encoding": "utf-8", "errors": "surrogateescape"}


def write(path):
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT, **TEXT) as archive:

        def add(name, type=tarfile.REGTYPE, content=b"", **fields):
            member = tarfile.TarInfo(name)
            member.type = type
            member.size = len(content)
            member.mtime = 1700000000
            for key, value in fields.items():
                setattr(member, key, value)
            archive.addfile(member, io.BytesIO(content))

        add("big", content=b"0123456789abcdef" * 40000)
        add("block", content=b"b" * 512)
        add("setuid", content=b"x", mode=0o6755, uid=3000000, gid=2097151)
        add("sticky", tarfile.DIRTYPE, mode=0o1777, mtime=-86400)
        add("half", mtime=1.5)
        add("before", mtime=-1.25)
        add("far", mtime=1 << 34)
        add("xattrs", pax_headers={
            "SCHILY.xattr.user.text": "grüße",
            "SCHILY.xattr.user.binary": "\udcff\udc80\x01",
            "SCHILY.xattr.security.capability": "\x01\udc80\x02=\n",
        })
        add("console", tarfile.CHRTYPE, devmajor=5, devminor=1)
        add("sda", tarfile.BLKTYPE, devmajor=8, devminor=1048575)
        add("fifo", tarfile.FIFOTYPE, mode=0o600)
        add("h\udcff\n\\%\"'", content=b"odd")
        add("grüße", content=b"utf-8")
        add("n" * 100, content=b"100")
        add("n" * 101, content=b"101")
        add("p" * 150 + "/" + "n" * 100, content=b"prefix")
        add("d/" * 150 + "deep", content=b"deep")
        add("d/" * 150 + "\udcfe" * 120, content=b"deep and odd")
        add("short", tarfile.SYMTYPE, mode=0o777, linkname="../sticky")
        add("l" * 101, tarfile.SYMTYPE, mode=0o777, linkname="t" * 101)
        add("odd link", tarfile.SYMTYPE, mode=0o777, linkname="\udcff" * 200)
        add("a-linked", content=b"linked")
        add("linked again", tarfile.LNKTYPE, linkname="a-linked")
        add("z" * 200, tarfile.LNKTYPE, linkname="a-linked")


def plain(text):
    """Bytes as JSON can have them: a character each."""
    return text.encode(**TEXT).decode("latin-1")


def dump(paths):
    things = {}
    for path in paths:
        with tarfile.open(path, **TEXT) as archive:
            for member in archive:
                content = None
                if member.isreg() or member.islnk():
                    content = hashlib.sha256(archive.extractfile(member).read()).hexdigest()
                same = archive.getmember(member.linkname) if member.islnk() else member
                xattrs = {plain(k): plain(v) for k, v in same.pax_headers.items() if "xattr" in k}
                things[plain(member.name)] = [
                    "link to" if member.islnk() else member.type.decode(),
                    plain(member.linkname),
                    same.mode, same.uid, same.gid, same.size, str(same.mtime),
                    [same.devmajor, same.devminor] if same.isdev() else None,
                    xattrs, content,
                    bool(same.sparse),
                ]
    print(json.dumps(things, indent=1, sort_keys=True))


if sys.argv[1] == "write":
    write(sys.argv[2])
else:
    dump(sys.argv[2:])
