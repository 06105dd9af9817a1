"""A memory control group of one's own around a server: what it costs with the kernel's side of its connections.

Version 1 and 2 of the interface; without either, or without the right to make a group, there is no figure.
"""

import pathlib

ROOT = pathlib.Path("/sys/fs/cgroup")


class Group:
    """A group that processes are put into before they open connections: kernel memory stays where it was charged."""

    def __init__(self, name, pids):
        self.folder = None
        self.is_v2 = (ROOT / "cgroup.controllers").exists()
        folder = (ROOT if self.is_v2 else ROOT / "memory") / name
        try:
            folder.mkdir(exist_ok=True)
            for pid in pids:
                (folder / "cgroup.procs").write_text(str(pid))
            self.usage_file(folder).read_text()
        except OSError as error:
            print(f"    no memory control group ({error}): its column stays empty", flush=True)
            return
        self.folder = folder

    def usage_file(self, folder):
        return folder / ("memory.current" if self.is_v2 else "memory.usage_in_bytes")

    def kib(self):
        """Memory charged to the group, TCP buffers with it, page cache without; `None` if there is no group."""
        if not self.folder:
            return None
        used = int(self.usage_file(self.folder).read_text())
        tcp = self.folder / "memory.kmem.tcp.usage_in_bytes"
        if tcp.exists():
            used += int(tcp.read_text())
        stat = dict(line.split() for line in (self.folder / "memory.stat").read_text().splitlines())
        return (used - int(stat["file" if self.is_v2 else "total_cache"])) // 1024

    def end(self):
        """To be called when the processes have ended."""
        if self.folder:
            try:
                self.folder.rmdir()
            except OSError as error:
                print(f"    {self.folder} stays: {error}", flush=True)
