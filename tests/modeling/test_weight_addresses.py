"""Weights by address: downloaded, and then checked as any file is."""

import io
import pickle
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from detectron2.modeling import build_model
from wsis.errors import DataError
from wsis.modeling.checkpoint import load_weights

from tests.modeling.test_checkpoint import Evil, assert_same, perturbed
from tests.modeling.test_image_classifier import tiny_camnet_cfg


@pytest.fixture
def model():
    return build_model(tiny_camnet_cfg())


@pytest.fixture
def server(tmp_path, monkeypatch):
    """``(file name, content) -> address`` of a server on this machine."""
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "served"
    folder.mkdir()
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    monkeypatch.setattr(SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()

        def serve(name, content):
            (folder / name).write_bytes(content)
            return f"http://127.0.0.1:{running.server_port}/{name}"

        yield serve
        running.shutdown()


@pytest.mark.parametrize("name", ["evil.pkl", "evil.pth", "evil.pkl?raw=true"])
@pytest.mark.parametrize("strict", [False, True])
def test_code_in_a_file_with_an_address_is_not_run(model, server, capsys, name, strict):
    address = server(name.partition("?")[0], pickle.dumps({"model": Evil()}))
    with pytest.raises(DataError, match=r"evil\.p"):
        load_weights(
            model, address + name.partition("?")[1] + name.partition("?")[2], strict=strict
        )
    assert "must not" not in capsys.readouterr().out


def test_weights_with_an_address(model, server):
    state = perturbed(model)
    buffer = io.BytesIO()
    torch.save(state, buffer)
    assert load_weights(model, server("w.pth", buffer.getvalue()), strict=True) == []
    assert_same(dict(model.state_dict()), state)
    arrays = {k: v.numpy() for k, v in state.items() if k != "classifier.weight"}
    content = pickle.dumps({"model": arrays, "__author__": "x"})
    assert load_weights(model, server("w.pkl", content)) == ["classifier.weight"]


def test_an_address_without_a_file(model, server):
    address = server("w.pth", b"")
    with pytest.raises(DataError, match=r"the weights http.*/gone\.pth did not come .*give the"):
        load_weights(model, address.replace("w.pth", "gone.pth"))
    for address in ("nothing://w.pth", "detectron2://"):
        with pytest.raises(DataError):
            load_weights(model, address)
