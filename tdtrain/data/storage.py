"""One way to open a folder, local or remote, for reading and writing: pyarrow's filesystems."""

from __future__ import annotations

import contextlib
import os
import uuid
from dataclasses import dataclass
from pathlib import Path

from pyarrow import ArrowInvalid, fs


@dataclass(frozen=True)
class Folder:
    """A folder on any pyarrow filesystem. Picklable, so that Ray tasks read and write it themselves.

    Attributes:
        filesystem: local, S3, GCS or another pyarrow filesystem.
        root: the folder's path on it, without a trailing slash.
    """

    filesystem: fs.FileSystem
    root: str

    @property
    def is_local(self) -> bool:
        return isinstance(self.filesystem, fs.LocalFileSystem)

    def path(self, name: str) -> str:
        return f"{self.root}/{name}"

    def within(self, name: str) -> Folder:
        """A folder in this one."""
        return Folder(self.filesystem, self.path(name))

    def read(self, name: str) -> bytes:
        with self.filesystem.open_input_stream(self.path(name)) as stream:
            return stream.read()

    def write(self, name: str, content: bytes, durable: bool = False) -> None:
        """Writes a file whole or not at all: under a name that nobody else has, then moved. `durable`: returns when not
        even a power cut can take it back (on a local disk)."""
        target = self.path(name)
        partial = f"{target.rsplit('/', 1)[0]}/{_partial()}"
        self.filesystem.create_dir(target.rsplit("/", 1)[0], recursive=True)
        with self.filesystem.open_output_stream(partial) as stream:
            stream.write(content)
        if durable and self.is_local:
            _sync(partial)
        self.filesystem.move(partial, target)
        if durable and self.is_local:
            _sync(target.rsplit("/", 1)[0])

    def bring(self, name: str, source: Folder, their_name: str) -> None:
        """Has a file of another folder here as well: as the same file where both lie on one file system, or a copy."""
        if self.is_local and source.is_local:
            theirs, target = Path(source.path(their_name)).resolve(), Path(self.path(name))
            if target.exists() and target.samefile(theirs):
                return
            partial = target.with_name(_partial())
            target.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(OSError):  # of another file system, or one without links
                os.link(theirs, partial)
                os.replace(partial, target)
                return
        content = source.read(their_name)
        if not self.exists(name) or self.read(name) != content:
            self.write(name, content)

    def exists(self, name: str) -> bool:
        return self.filesystem.get_file_info(self.path(name)).type == fs.FileType.File

    def delete(self, name: str) -> None:
        if self.exists(name):
            self.filesystem.delete_file(self.path(name))

    def delete_folder(self, name: str) -> None:
        """With all that is in it; it may be gone already."""
        with contextlib.suppress(FileNotFoundError):
            self.filesystem.delete_dir(self.path(name))

    def files(self, folder: str) -> tuple[str, ...]:
        """Every file below a subfolder, by its name inside it, sorted; links count as files and are not followed."""
        base = self.path(folder) if folder else self.root
        if self.is_local:
            # pyarrow leaves out links to nothing, and walks links to folders until the path grows too long.
            entries = (
                (top, name)
                for top, folders, files in os.walk(base, onerror=_raise)
                for name in [*files, *_links(top, folders)]
            )
            found = [os.path.relpath(os.path.join(top, name), base) for top, name in entries]
        else:
            selector = fs.FileSelector(base, recursive=True, allow_not_found=True)
            infos = self.filesystem.get_file_info(selector)
            found = [info.path[len(base) + 1 :] for info in infos if info.type == fs.FileType.File]
        return tuple(sorted(found))


def _partial() -> str:
    """A name that nobody else has; no longer where the file's own is as long as names may be."""
    return f".{uuid.uuid4().hex}.tmp"


def _sync(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _raise(error: OSError) -> None:
    """What cannot be listed is not left out in silence; the folder itself need not exist."""
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise error


def _links(top: str, folders: list[str]) -> list[str]:
    return [name for name in folders if os.path.islink(os.path.join(top, name))]


def open_folder(path: str | Path) -> Folder:
    """Opens `s3://bucket/folder`, `gs://...`, `file:///...` or a local path. The folder need not exist yet."""
    return Folder(*locate(path))


def locate(path: str | Path) -> tuple[fs.FileSystem, str]:
    """The filesystem of a path or URI, and the path on it. AWS_ENDPOINT_URL names a server other than Amazon's.

    Raises: ValueError where it is no such URI.
    """
    if "://" in str(path):
        try:
            filesystem, root = fs.FileSystem.from_uri(str(path))
        except ArrowInvalid as error:
            reason = str(error).partition("\n")[0]
            raise ValueError(f"{path} cannot be opened ({reason}); use s3://, gs:// or a folder") from None
        return filesystem, root.rstrip("/")
    return fs.LocalFileSystem(), absolute(path)


def absolute(path: str | Path) -> str:
    """The same place in a spelling that another process understands: URIs stay, local paths become absolute."""
    return str(path) if "://" in str(path) else str(Path(path).expanduser().absolute())
