"""Small archives for tests, with fixed bytes for fixed content."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

from nmt_rela.preparation.sources.archives import LocalArchive

COMPRESSORS = {
    "": bytes,
    "gz": lambda data: gzip.compress(data, mtime=0),
    "xz": lzma.compress,
    "bz2": bz2.compress,
}


def tar_bytes(members: Mapping[str, bytes | tarfile.TarInfo], *, compression: str = "") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in members.items():
            if isinstance(content, tarfile.TarInfo):
                tar.addfile(content)
            else:
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return COMPRESSORS[compression](buffer.getvalue())


def zip_bytes(members: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as zipped:
        for name, content in members.items():
            zipped.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def packed(archive_format: str, members: Mapping[str, bytes]) -> bytes:
    """An archive of a format of ``ARCHIVE_FORMATS``; single-file formats take the only member."""
    if archive_format == "zip":
        return zip_bytes(members)
    if archive_format in ("tar", "tgz") or archive_format.startswith("tar."):
        return tar_bytes(
            members, compression={"tar": "", "tgz": "gz"}.get(archive_format, archive_format.removeprefix("tar."))
        )
    (content,) = members.values()
    return COMPRESSORS["" if archive_format == "plain" else archive_format](content)


def archive(path: Path, archive_format: str, *parts: bytes) -> LocalArchive:
    """The parts of an archive, written beside each other."""
    paths = []
    for index, part in enumerate(parts):
        paths.append(path.with_name(f"{path.name}.{index:02}"))
        paths[-1].write_bytes(part)
    return LocalArchive(name=path.name, format=archive_format, paths=tuple(paths), digest="")
