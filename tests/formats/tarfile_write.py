"""Writes a tar of every type, in the format and to the path given."""

import io
import sys
import tarfile

path, kind = sys.argv[1:]
form = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}[kind]
wide = kind != "ustar"

with tarfile.open(path, "w", format=form, encoding="utf-8", errors="surrogateescape") as archive:

    def add(name, type, size=0, **fields):
        member = tarfile.TarInfo(name)
        member.type = type
        member.size = size
        member.mtime = 1700000000
        for key, value in fields.items():
            setattr(member, key, value)
        archive.addfile(member, io.BytesIO(b"0123456789abcdef" * (size // 16 + 1)))

    for size in (0, 1, 511, 512, 513, 1023, 1024, 1025):
        add(f"sizes/{size}", tarfile.REGTYPE, size)
    add("sizes", tarfile.DIRTYPE, mode=0o1777)
    add("setuid", tarfile.REGTYPE, 3, mode=0o6755, uid=1000, gid=1001)
    add("old", tarfile.AREGTYPE, 3)
    add("contiguous", tarfile.CONTTYPE, 700)
    add("symlink", tarfile.SYMTYPE, linkname="../sizes/1")
    add("hard link", tarfile.LNKTYPE, linkname="sizes/1")
    add("console", tarfile.CHRTYPE, devmajor=5, devminor=1)
    add("sda", tarfile.BLKTYPE, devmajor=8, devminor=0)
    add("fifo", tarfile.FIFOTYPE, mode=0o600)
    add("h\udcff\n\\%\"'", tarfile.REGTYPE, 5)
    add("n" * 100, tarfile.SYMTYPE, linkname="t" * 100)
    add("p" * 150 + "/" + "n" * 100, tarfile.REGTYPE, 1)
    if wide:
        add("d/" * 150 + "long", tarfile.REGTYPE, 9)
        add("long link", tarfile.SYMTYPE, linkname="t" * 101)
        add("both" * 30, tarfile.LNKTYPE, linkname="t" * 300)
        add("before 1970", tarfile.REGTYPE, 2, mtime=-86400)
        add("wide owner", tarfile.REGTYPE, 2, uid=1 << 21, gid=(1 << 32) - 1)
    if kind == "pax":
        add("fraction", tarfile.REGTYPE, 2, mtime=1700000000.25)
        add("negative fraction", tarfile.REGTYPE, 2, mtime=-1.5)
        add("pr\u00fcfung", tarfile.DIRTYPE, pax_headers={
            "SCHILY.xattr.user.name": "v\n=\udcff",
            "SCHILY.xattr.security.capability": "\x01\x00\x00\x02\x00 \x00",
            "SCHILY.xattr.user.empty": "",
        })
