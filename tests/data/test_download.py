"""Downloads resume, checksums decide, archives stay in their folder."""

import hashlib
import io
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from wsis.data.download import download, extract_tar, verify_md5
from wsis.errors import DataError

CONTENT = bytes(range(256)) * 40
MD5 = hashlib.md5(CONTENT).hexdigest()


@pytest.fixture
def server():
    """Serves CONTENT, with ranges under /ranged, cut short under /short."""
    requests = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            wanted = self.headers.get("Range")
            requests.append(wanted)
            start = 0
            if self.path == "/none":
                self.send_error(404)
                return
            if self.path == "/ranged" and wanted:
                start = int(wanted.removeprefix("bytes=").removesuffix("-"))
                if start >= len(CONTENT):
                    self.send_error(416)
                    return
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(CONTENT) - start))
            self.end_headers()
            end = 1000 if self.path == "/short" else len(CONTENT)
            self.wfile.write(CONTENT[start:end])

        def log_message(self, *arguments):
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_port}", requests
    httpd.shutdown()
    thread.join()
    httpd.server_close()


def test_download(tmp_path, server, capsys):
    url, requests = server
    path = tmp_path / "sub" / "f"
    download(f"{url}/ranged", path, md5=MD5)
    assert path.read_bytes() == CONTENT
    assert "f: 100%" in capsys.readouterr().err
    download(f"{url}/ranged", path, md5=MD5)
    assert requests == [None]


@pytest.mark.parametrize(("page", "share"), [("ranged", 4000), ("plain", 4000), ("ranged", 10240)])
def test_goes_on(tmp_path, server, page, share):
    """Also where the server ignores ranges, and where all but the renaming was done."""
    url, requests = server
    (tmp_path / "f.part").write_bytes(CONTENT[:share])
    download(f"{url}/{page}", tmp_path / "f", md5=MD5)
    assert requests == [f"bytes={share}-"]
    assert (tmp_path / "f").read_bytes() == CONTENT
    assert not (tmp_path / "f.part").exists()


def test_broken_connection_keeps_what_came(tmp_path, server):
    url, _ = server
    with pytest.raises(DataError, match="run again to go on"):
        download(f"{url}/short", tmp_path / "f", md5=MD5)
    assert not (tmp_path / "f").exists()
    assert (tmp_path / "f.part").stat().st_size == 1000
    download(f"{url}/ranged", tmp_path / "f", md5=MD5)
    assert (tmp_path / "f").read_bytes() == CONTENT


def test_wrong_checksum(tmp_path, server):
    url, _ = server
    with pytest.raises(DataError, match="another MD5"):
        download(f"{url}/ranged", tmp_path / "f", md5="0" * 32)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "f").write_bytes(b"x")
    with pytest.raises(DataError, match="delete it and download it again"):
        verify_md5(tmp_path / "f", MD5)


def test_refused(tmp_path, server):
    url, _ = server
    with pytest.raises(DataError, match="404"):
        download(f"{url}/none", tmp_path / "f", md5=MD5)
    with pytest.raises(DataError, match="cannot be downloaded"):
        download("http://127.0.0.1:1/x", tmp_path / "f", md5=MD5)


def archive(path, entries):
    """A tar of (name, bytes) or (name, link target as text)."""
    with tarfile.open(path, "w:gz" if path.suffix == ".tgz" else "w") as tar:
        for name, value in entries:
            info = tarfile.TarInfo(name)
            if isinstance(value, str):
                info.type, info.linkname = tarfile.SYMTYPE, value
                tar.addfile(info)
            else:
                info.size = len(value)
                tar.addfile(info, io.BytesIO(value))
    return path


def test_extract(tmp_path):
    entries = [("top/a.txt", b"a"), ("top/sub/b.txt", b"bb"), ("top/skip.c", b"c"), ("top/l", "a")]
    path = archive(tmp_path / "x.tgz", entries)
    out = tmp_path / "out"
    wanted = {"strip": 1, "wanted": lambda name: name.endswith(".txt")}
    assert extract_tar(path, out, **wanted) == 2
    assert (out / "sub" / "b.txt").read_bytes() == b"bb"
    assert not (out / "skip.c").exists()
    assert extract_tar(path, out, **wanted) == 0
    (out / "a.txt").write_bytes(b"")  # cut short by something else
    assert extract_tar(path, out, **wanted) == 1


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/x", "a/..\\..\\x", "C:/x"])
def test_extract_stays_inside(tmp_path, name):
    path = archive(tmp_path / "x.tar", [("fine", b"1"), (name, b"2")])
    with pytest.raises(DataError, match=r"entry .* leaves its folder; it was not extracted"):
        extract_tar(path, tmp_path / "out" / "deep")
    assert not (tmp_path / "x").exists()
    assert not (tmp_path / "out" / "x").exists()


def test_links_are_not_followed(tmp_path):
    path = archive(tmp_path / "x.tar", [("d", str(tmp_path / "target")), ("d/f", b"1")])
    (tmp_path / "target").mkdir()
    extract_tar(path, tmp_path / "out")
    assert list((tmp_path / "target").iterdir()) == []


def test_bad_archives(tmp_path):
    (tmp_path / "x.tar").write_bytes(b"nothing")
    with pytest.raises(DataError, match="not a sound archive"):
        extract_tar(tmp_path / "x.tar", tmp_path)
    path = archive(tmp_path / "y.tgz", [("a", bytes(range(256)) * 999)])
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match="not a sound archive"):
        extract_tar(path, tmp_path / "out")
    assert not (tmp_path / "out" / "a").exists()
    with pytest.raises(DataError, match="does not exist"):
        extract_tar(tmp_path / "z.tar", tmp_path)
