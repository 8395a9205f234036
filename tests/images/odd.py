"""Files of every sort below the folder that is named."""

import os
import sys

os.umask(0o022)
os.makedirs(sys.argv[1])
os.chdir(sys.argv[1])


def file(name, content=b"content\n"):
    with open(name, "wb") as out:
        out.write(content)


# Names
os.mkdir("names")
for name in (
    b"new\nline", b"tab\t", b"quote\"'`", b"100%", b"%41", b"%2F", b"back\\slash", b"space ", b" ",
    b"a+b&c=d;e?f#g", b"\xff\xfe", b"caf\xe9", "caf\u00e9".encode(), "e\u0301\u202e".encode(),
    b"-rf", b"*", b"~", b"...", b"\x01\x1b[31m", b"\x7f", b"<b>", b"[x]{y}|^", b"@:,!$()",
    b"n" * 99, b"n" * 100, b"n" * 101, b"n" * 255, b"\xf0" * 255,
    # Beside a folder of the same beginning: "/" is not the least byte.
    b"dir-", b"dir.", b"dir0",
):
    file(b"names/" + name, b"named " + name)
os.mkdir("names/dir")
file("names/dir/x")
for name in (b"caf\xe9.d", b"\xff.d", b"100%25", b"new\nline.d", b"quote\"'.d", b"d" * 255):
    os.mkdir(b"names/" + name)
    file(b"names/" + name + b"/in " + name[:99])
    os.symlink(b"in " + name[:99], b"names/" + name + b"/link")
# Paths longer than the fields of a ustar header
deep = b"deep" + b"/123456789" * 30
os.makedirs(deep)
file(deep + b"/file")
os.symlink(b"/" + b"x" * 300, deep + b"/symlink")
os.link(deep + b"/file", deep + b"/hard")

# Modes and owners
os.mkdir("modes")
for mode in (0, 0o400, 0o644, 0o777, 0o4711, 0o2755, 0o1777, 0o6711, 0o7777):
    file(f"modes/file{mode:o}")
    os.chmod(f"modes/file{mode:o}", mode)
    os.mkdir(f"modes/dir{mode:o}")
    os.chmod(f"modes/dir{mode:o}", mode)
for owner in (1, 65534, 2097151, 2097152, 3000000, 4294967294):
    file(f"modes/owner{owner}")
    os.chown(f"modes/owner{owner}", owner, owner - 1)
os.symlink("gone", "modes/symlink")
os.lchown("modes/symlink", 3000001, 3000002)
os.mkdir("empty")

# Special files
os.mkfifo("fifo", 0o640)
os.mknod("char", 0o20600, os.makedev(1, 3))
os.mknod("block", 0o60660, os.makedev(259, 70000))
os.link("fifo", "fifo2")
os.link("char", "char2")

# Hard links
file("hard1", b"hard")
for name in ("hard2", "names/hard3", "a-hard"):
    os.link("hard1", name)
os.symlink("hard1", "soft1")
os.link("soft1", "soft2", follow_symlinks=False)
# A whole second, as some clients take the time that a layer says of a link for
# its target's, and programs that write layers round in their own ways.
for name in ("hard1", "soft1"):
    os.utime(name, ns=(0, 1500000000 * 10**9), follow_symlinks=False)

# Symlinks, for those who follow them
os.symlink("names/dir/../../hard1", "follow")
os.symlink(os.path.abspath("hard1"), "absolute")
os.symlink("../" * 40 + "etc/debian_version", "beyond")
os.symlink("/../../../etc/debian_version", "beyond2")
os.symlink("loop2", "loop1")
os.symlink("loop1", "loop2")
os.symlink("loop3", "loop3")
os.symlink("names/dir", "to-dir")
os.symlink("to-dir/x", "chain0")
for n in range(39):
    os.symlink(f"chain{n}", f"chain{n + 1}")
os.symlink("hard1/x", "through-file")

# Sizes beside those of a tar's block
os.mkdir("sizes")
for size in (0, 1, 511, 512, 513, 1023, 1024, 1025, 65536, 3000000):
    file(f"sizes/{size}", bytes(n * n % 251 for n in range(251)) * (size // 251) + b"s" * (size % 251))
# Holes at the beginning, between and at the end; nothing but a hole
with open("sizes/sparse", "wb") as out:
    for place in (1 << 20, 3 << 20, (3 << 20) + 65536, 9 << 20):
        out.seek(place)
        out.write(str(place).encode() * 99)
    out.truncate(12 << 20)
with open("sizes/hole", "wb") as out:
    out.truncate((1 << 20) + 1)

# Extended attributes
os.mkdir("xattrs")
for name in ("file", "plain", "exe"):
    file("xattrs/" + name)
os.mkdir("xattrs/dir")
os.chmod("xattrs/exe", 0o755)
os.setxattr("xattrs/file", "user.text", b"value")
os.setxattr("xattrs/file", "user.binary", bytes(range(256)))
os.setxattr("xattrs/file", "user.newline", b"a\n12 b=c\n")
os.setxattr("xattrs/dir", "user.dir", b"dir")
# cap_net_bind_service=ep, revision 2
os.setxattr("xattrs/exe", "security.capability", bytes.fromhex("0100000200040000000000000000000000000000"))

# Times, at last: to the nanosecond, before 1970, after 2038
os.mkdir("times")
for name, nanoseconds in (
    ("epoch", 0), ("fraction", 1234567890123456789), ("milli", 1234567890999000000), ("nano", 1),
    ("negative", -86400 * 10**9), ("negative-fraction", -1_500_000_001), ("almost", -1),
    ("year2100", 4102444800 * 10**9), ("old", 315532800 * 10**9),
):
    file("times/" + name)
    os.utime("times/" + name, ns=(0, nanoseconds))
os.symlink("old", "times/symlink")
os.utime("times/symlink", ns=(0, -1), follow_symlinks=False)
os.mkdir("times/dir")
os.utime("times/dir", ns=(0, 987654321987654321))