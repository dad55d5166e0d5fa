"""A model that only answers is asked no more than allowed, no faster, never twice about an image, and survives a kill."""

import base64
import contextlib
import io
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch

from antivenom.attacks.hop_skip_jump import hop_skip_jump
from antivenom.attacks.square import square
from antivenom.errors import EndpointError, ImageError, ModelError, RecordsError, SettingsError, WeightsError
from antivenom.models.endpoint import Endpoint, Patience
from antivenom.randomness import Draws
from antivenom.threat.goals import Untargeted
from antivenom.threat.perturbations import L2, Linf
from toys import Plane


class Service:
    """The plane as a function of NumPy arrays that remembers how often it was asked, and may fail or be interrupted."""

    def __init__(self, failures=(), stops_after=None, labels=False):
        self.model, self.sent, self.failures = Plane().eval(), [], list(failures)
        self.stops_after, self.labels = stops_after, labels

    def __call__(self, images):
        if self.failures:
            raise self.failures.pop(0)
        if self.stops_after is not None and self.images + len(images) > self.stops_after:
            raise KeyboardInterrupt
        self.sent.append(len(images))
        with torch.no_grad():
            answer = self.model(torch.from_numpy(images)).numpy()
        return answer.argmax(1) if self.labels else answer

    @property
    def images(self):
        return sum(self.sent)


class Clock:
    """Time that passes by sleeping alone."""

    def __init__(self):
        self.now, self.slept = 100.0, []

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.now += seconds

    def patience(self, **settings):
        return Patience(clock=lambda: self.now, sleep=self.sleep, **settings)


@pytest.fixture
def x():
    return torch.rand(12, 3, 4, 4, generator=torch.Generator().manual_seed(0))


def endpoint(service, **settings):
    return Endpoint(service, **{"classes": 2, "budget": None, **settings})


# -- asking ------------------------------------------------------------------------------------------------------------


def test_answers_are_those_of_the_model(x):
    service = Service()
    model = endpoint(service, at_once=5)
    answer = model(x)
    torch.testing.assert_close(answer, service.model(x).detach(), rtol=1e-6, atol=1e-7)
    assert answer.dtype == torch.float32
    assert service.sent == [5, 5, 2]
    assert model.asked == 12
    assert not model(x.clone().requires_grad_()).requires_grad


def test_an_image_is_asked_about_once(x):
    service = Service()
    model = endpoint(service)
    first = model(x[[0, 1, 0, 1, 0]])
    assert torch.equal(first, model(x[[1, 0]])[[1, 0, 1, 0, 1]])
    assert service.images == model.asked == 2


def test_the_same_values_in_another_shape_are_another_image(x):
    service = Service()
    model = endpoint(service)
    model(x[:1])
    model(x[:1].reshape(1, 3, 2, 8))
    assert service.images == 2


def test_no_image_is_no_question():
    assert endpoint(Service())(torch.zeros(0, 3, 4, 4)).shape == (0, 2)


def test_a_label_becomes_one_and_zero(x):
    answer = endpoint(Service(labels=True))(x)
    assert torch.equal(answer, torch.nn.functional.one_hot(Plane()(x).argmax(1), 2).float())


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda b: np.zeros((b, 3)), r"\(12, 2\).*float64 of shape \(12, 3\)"),
        (lambda b: np.zeros((b - 1, 2)), "of shape"),
        (lambda b: np.zeros(b), "float64 of shape"),  # neither labels nor scores
        (lambda b: np.zeros((b, 2), dtype=complex), "complex"),
        (lambda b: np.zeros((b, 2), dtype=bool), "bool"),
        (lambda b: [["0.1", "0.9"]] * b, "<U3"),
        (lambda b: [[0.1, 0.9]] * (b - 1) + [[0.1]], "different length"),
        (lambda b: np.full((b, 2), np.nan), "NaN"),
        (lambda b: np.full((b, 2), 1e300), "infinity"),  # in float32
        (lambda b: np.full(b, 2), r"0\.\.1, got 2\.\.2"),
        (lambda b: np.full(b, -1), r"got -1"),
        (lambda b: [None] * b, "object"),
    ],
)
def test_what_is_no_answer_is_refused_and_not_kept(x, tmp_path, answer, said):
    log = tmp_path / "log"
    with pytest.raises(ModelError, match=said):
        endpoint(lambda images: answer(len(images)), log=log)(x)
    assert not log.exists()


@pytest.mark.parametrize("images", [torch.zeros(3, 4, 4), torch.full((1, 3, 4, 4), torch.nan)])
def test_what_is_no_image_is_refused(images):
    service = Service()
    with pytest.raises(ImageError, match="finite and of shape"):
        endpoint(service)(images)
    assert not service.sent


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"classes": 0}, "classes=0"),
        ({"budget": -1}, "-1"),
        ({"per_second": 0.0}, r"0\.0"),
        ({"at_once": 0}, "at_once=0"),
        ({"patience": Patience(retries=-1)}, "-1 retries"),
    ],
)
def test_an_endpoint_that_cannot_be_is_refused(settings, said):
    with pytest.raises(SettingsError, match=said):
        endpoint(Service(), **settings)


# -- limits ------------------------------------------------------------------------------------------------------------


def test_the_budget_is_spent_and_not_passed(x, tmp_path):
    service, log = Service(), tmp_path / "log"
    model = endpoint(service, budget=5, at_once=3, log=log)
    with pytest.raises(EndpointError, match=r"budget of 5 images is spent: 5 images were asked, and 5 answers lie in .*log"):
        model(x)
    assert service.sent == [3, 2]
    assert model(x[:5]).shape == (5, 2)  # what is known is answered all the same
    with pytest.raises(EndpointError, match="budget"):
        model(x[5:])
    assert service.images == 5


def test_without_a_log_the_message_says_what_one_is_for(x):
    with pytest.raises(EndpointError, match="log=FILE"):
        endpoint(Service(), budget=1)(x)


def test_no_more_images_are_sent_than_time_allows(x):
    clock, times = Clock(), []
    service = Service()

    def ask(images):
        times.extend([clock.now - 100.0] * len(images))
        return service(images)

    model = endpoint(ask, per_second=4.0, at_once=64, patience=clock.patience())
    model(x[:6])
    model(x[6:])
    assert service.sent == [4, 2, 4, 2]
    assert times == [0.0] * 4 + [1.0] * 2 + [1.5] * 4 + [2.5] * 2


def test_less_than_one_image_a_second(x):
    clock = Clock()
    endpoint(Service(), per_second=0.5, patience=clock.patience())(x[:3])
    assert clock.slept == [2.0, 2.0]


def test_time_that_passed_by_itself_is_not_waited_for(x):
    clock = Clock()
    model = endpoint(Service(), per_second=1.0, patience=clock.patience())
    model(x[:1])
    clock.now += 5
    model(x[1:2])
    assert clock.slept == []


@pytest.mark.parametrize("failure", [ConnectionResetError("gone"), TimeoutError("slow")])
def test_a_failure_that_may_go_by_is_waited_for(x, failure):
    clock, service = Clock(), Service(failures=[failure, failure])
    model = endpoint(service, patience=clock.patience(retries=3, wait=0.5))
    assert model(x[:2]).shape == (2, 2)
    assert clock.slept == [0.5, 1.0]
    assert model.asked == 6  # each sending counts: who knows what the service counted


def test_patience_ends(x):
    clock, service = Clock(), Service(failures=[ConnectionError("down")] * 20)
    model = endpoint(service, patience=clock.patience(retries=9, wait=1.0))
    with pytest.raises(EndpointError, match="failed 10 times, last with ConnectionError: down; 10 images were asked"):
        model(x[:1])
    assert clock.slept == [1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_images_sent_again_do_not_pass_the_budget(x):
    clock, service = Clock(), Service(failures=[ConnectionError()] * 20)
    model = endpoint(service, budget=3, patience=clock.patience())
    with pytest.raises(EndpointError, match="budget"):
        model(x[:2])
    assert model.asked == 2


def test_any_other_failure_is_the_callers_own(x):
    with pytest.raises(ZeroDivisionError):
        endpoint(Service(failures=[ZeroDivisionError()]))(x)


# -- the log -----------------------------------------------------------------------------------------------------------


def attack(name, model, x, y):
    draws = Draws.of(0, torch.arange(len(x)))
    if name == "square":
        return square(model, x, Untargeted(y), Linf(0.02), queries=40, generator=draws)
    return hop_skip_jump(model, x, Untargeted(y), L2(float("inf")), queries=60, probes=10, generator=draws)


@pytest.mark.parametrize(("name", "labels"), [("square", False), ("hop_skip_jump", True)])
def test_a_run_that_was_killed_goes_on_without_asking_again(x, tmp_path, name, labels):
    y = Plane()(x).argmax(1)
    whole = Service(labels=labels)
    expected = attack(name, endpoint(whole), x, y)

    log, asked = tmp_path / "folder" / "log", 0
    for stop in (whole.images // 3, whole.images // 3, None):
        part = Service(labels=labels, stops_after=stop)
        model = endpoint(part, log=log)
        with pytest.raises(KeyboardInterrupt) if stop is not None else contextlib.nullcontext():
            result = attack(name, model, x, y)
        asked += part.images
        assert part.images > 0
    assert asked == whole.images
    assert model.asked == part.images  # replay costs no budget
    assert torch.equal(result.x_adv, expected.x_adv)
    assert torch.equal(result.queries, expected.queries)

    again = Service(labels=labels)
    attack(name, endpoint(again, log=log, budget=0), x, y)
    assert again.images == 0


def test_answers_come_back_from_disk_bit_for_bit(x, tmp_path):
    values = np.array([[np.pi, -0.0], [1e-45, 3.4e38], [1 / 3, -1e-20]], dtype=np.float32)
    first = endpoint(lambda _: values, log=tmp_path / "log")(x[:3])
    second = endpoint(Service(), log=tmp_path / "log", budget=0)(x[:3])
    assert first.numpy().tobytes() == second.numpy().tobytes() == values.tobytes()


def test_wherever_the_log_is_torn_off_it_goes_on(x, tmp_path):
    def corner(images):
        sent.append(len(images))
        return images[:, 0, 0, :2]

    log, sent = tmp_path / "log", []
    endpoint(corner, log=log)(x[:3])
    content = log.read_bytes()
    ends = [place for place in range(len(content)) if content[place] == ord("\n")]
    for length in sorted({*range(0, len(content), 11), *ends, *(end + 1 for end in ends[:-1])}):
        log.write_bytes(content[:length])
        sent.clear()
        assert torch.equal(endpoint(corner, log=log)(x[:3]), x[:3, 0, 0, :2])
        assert sum(sent) == 3 - max(0, content[:length].count(b"\n") - 1)
        assert log.read_bytes() == content


def test_answers_of_a_killed_process_are_on_disk(tmp_path):
    program = f"""
import os, signal, numpy as np, torch
from antivenom.models.endpoint import Endpoint
def ask(images):
    if images[0, 0, 0, 0] > 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return images[:, 0, 0, :2]
Endpoint(ask, classes=2, budget=None, log={str(tmp_path / "log")!r}, at_once=3)(torch.arange(40.0).reshape(10, 1, 2, 2) / 4)
"""
    done = subprocess.run([sys.executable, "-c", program], check=False)
    assert done.returncode == -signal.SIGKILL
    model = Endpoint(lambda images: images[:, 0, 0, :2], classes=2, budget=None, log=tmp_path / "log")
    images = torch.arange(40.0).reshape(10, 1, 2, 2) / 4
    assert torch.equal(model(images), images[:, 0, 0])
    assert model.asked == 4  # 6 were answered before the request that was never finished


def test_a_log_of_another_model_is_refused(x, tmp_path):
    log = tmp_path / "log"
    endpoint(Service(), log=log, name="mine")(x)
    with pytest.raises(RecordsError, match="'mine' with 2 classes, not of 'yours' with 2"):
        endpoint(Service(), log=log, name="yours")
    with pytest.raises(RecordsError, match="with 3; give another log"):
        endpoint(Service(), log=log, name="mine", classes=3)


@pytest.mark.parametrize(
    ("line", "number"),
    [
        (b"\x80\x04not json", 2),
        (b"[1, 2]", 3),
        (b'{"image": "abc", "answer": [0.0, 1.0]}', 4),
        (b'{"image": "' + b"a" * 64 + b'", "answer": [0.0]}', 2),
        (b'{"image": "' + b"a" * 64 + b'", "answer": [0.0, "1.0"]}', 2),
        (b'{"format": 99}', 1),
    ],
)
def test_a_damaged_log_is_refused(x, tmp_path, line, number):
    log = tmp_path / "log"
    endpoint(Service(), log=log)(x)
    lines = log.read_bytes().splitlines()
    lines[number - 1] = line
    log.write_bytes(b"\n".join(lines) + b"\n")
    with pytest.raises(RecordsError, match=f"damaged at line {number}"):
        endpoint(Service(), log=log)


def test_a_log_that_cannot_be_written_says_so(x, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RecordsError, match=r"cannot (read|write) the log"):
        endpoint(Service(), log=tmp_path / "file" / "log")(x)
    with pytest.raises(RecordsError, match="cannot read the log"):
        endpoint(Service(), log=tmp_path)(x)


# -- a service at an address -------------------------------------------------------------------------------------------


class Bomb:
    def __reduce__(self):
        return os.system, ("touch ran",)


class Handler(BaseHTTPRequestHandler):
    """The plane over HTTP, misbehaving by its path."""

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.seen.append((self.path, dict(self.headers), body))
        kind = self.path.strip("/").partition("?")[0]
        if kind.startswith("3"):
            return self.answer(int(kind), b"", Location=f"http://127.0.0.1:{self.server.server_port}/scores")
        if kind.isdigit():
            return self.answer(int(kind), b"")
        if kind == "busy" and len(self.server.seen) < 3:
            return self.answer(503, b"")
        if kind == "torn":
            return self.answer(200, b'{"answ', length=1000)
        if kind == "slow":
            return self.drip()
        return self.answer(200, self.content(kind, body))

    def content(self, kind, body):
        if "images_npy" in body:
            images = np.load(io.BytesIO(base64.b64decode(body["images_npy"])), allow_pickle=False)
        else:
            images = np.array(body["images"], dtype=np.float32)
        scores = Service()(images).astype(float)
        return {
            "labels": lambda: json.dumps({"labels": scores.argmax(1).tolist()}).encode(),
            "both": lambda: json.dumps({"labels": [], "answers": []}).encode(),
            "list": lambda: json.dumps(scores.tolist()).encode(),
            "nan": lambda: json.dumps({"answers": (scores * np.nan).tolist()}).encode(),
            "ragged": lambda: json.dumps({"labels": [[1], [1, 2]]}).encode(),
            "deep": lambda: b"[" * 3500,
            "pickle": lambda: pickle.dumps(Bomb()),
            "large": lambda: b" " * 5000 + json.dumps({"answers": scores.tolist()}).encode(),
        }.get(kind, lambda: json.dumps({"answers": scores.tolist()}).encode())()

    def answer(self, code, content, length=None, **headers):
        self.send_response(code)
        for name, value in {**headers, "Content-Length": str(length or len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def drip(self):
        self.send_response(200)
        self.end_headers()
        with contextlib.suppress(OSError):  # until the other side has had enough
            for _ in range(100):
                self.wfile.write(b" ")
                time.sleep(0.02)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.seen, server.daemon_threads, server.block_on_close = [], True, False
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


def at(server, kind, **settings):
    url = f"http://127.0.0.1:{server.server_port}/{kind}"
    quick = Patience(retries=2, wait=0.0)
    return Endpoint.from_url(url, **{"classes": 2, "budget": None, "patience": quick, **settings})


@pytest.mark.parametrize("packed", [False, True])
def test_a_service_answers_as_its_model(server, x, packed):
    model = at(server, "scores", packed=packed, at_once=5, headers={"Authorization": "Bearer secret"})
    torch.testing.assert_close(model(x), Plane()(x).detach(), rtol=1e-6, atol=1e-7)
    assert len(server.seen) == 3
    _, headers, body = server.seen[0]
    assert headers["Authorization"] == "Bearer secret"
    assert headers["Content-Type"] == "application/json"
    if packed:
        images = np.load(io.BytesIO(base64.b64decode(body["images_npy"])), allow_pickle=False)
    else:
        images = np.array(body["images"], dtype=np.float32)
    assert images.dtype == np.float32
    assert np.array_equal(images, x[:5].numpy())


def test_a_service_may_say_labels_alone(server, x):
    assert torch.equal(at(server, "labels")(x).argmax(1), Plane()(x).argmax(1))


def test_neither_the_log_nor_a_message_shows_what_the_request_carried(server, x, tmp_path):
    settings = {"headers": {"Authorization": "Bearer secret"}, "log": tmp_path / "log"}
    model = at(server, "scores?key=hidden", **settings)
    model(x)
    assert "secret" not in (tmp_path / "log").read_text()
    assert "hidden" not in (tmp_path / "log").read_text()
    with pytest.raises(ModelError) as caught:
        at(server, "404?key=hidden", **{**settings, "log": None})(x)
    assert "hidden" not in str(caught.value)
    assert "secret" not in repr(model._ask)
    with pytest.raises(RecordsError, match="give another log"):  # another key may stand for another model
        at(server, "scores?key=other", **settings)


def test_a_service_that_is_busy_is_asked_again(server, x):
    model = at(server, "busy", at_once=12)
    assert model(x).shape == (12, 2)
    assert model.asked == 36


@pytest.mark.parametrize("kind", ["503", "429", "408", "torn"])
def test_a_service_that_stays_busy_is_given_up(server, x, kind):
    with pytest.raises(EndpointError, match="failed 3 times"):
        at(server, kind)(x)
    assert len(server.seen) == 3


def test_a_service_that_is_not_there_is_given_up(x):
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as gone:
        port = gone.server_port
    model = Endpoint.from_url(f"http://localhost:{port}/", classes=2, budget=None, patience=Patience(retries=1, wait=0.0))
    with pytest.raises(EndpointError, match="failed 2 times, last with ConnectionError"):
        model(x)


def test_a_service_that_drips_is_given_up(server, x):
    started = time.monotonic()
    with pytest.raises(EndpointError, match=r"within 0\.1 seconds"):
        at(server, "slow", timeout=0.1, patience=Patience(retries=0))(x)
    assert time.monotonic() - started < 1.5


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("404", "status 404"),
        ("401", "status 401"),
        ("both", "must answer"),
        ("list", "must answer"),
        ("nan", "NaN"),
        ("ragged", "different length"),
        ("deep", "no JSON"),
        ("pickle", "no JSON"),
        ("large", "more than 4000 bytes"),
    ],
)
def test_a_service_that_answers_wrongly_is_refused_at_once(server, x, tmp_path, monkeypatch, kind, said):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match=said):
        at(server, kind, largest=4000)(x)
    assert len(server.seen) == 1
    assert not list(tmp_path.iterdir())  # nothing in it ran


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_images_are_not_sent_on_to_another_address(server, x, code):
    with pytest.raises(ModelError, match=rf"sends on to another address \(status {code}\)"):
        at(server, str(code))(x)
    assert [path for path, _, _ in server.seen] == [f"/{code}"]


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://hospital.example/ask", "insecure=True"),
        ("http://10.0.0.7/ask", "insecure=True"),
        ("ftp://localhost/ask", "https://"),
        ("file:///etc/passwd", "https://"),
        ("hospital.example/ask", "https://"),
        ("https:///ask", "names a host"),
        ("https://[::1/ask", "no address"),
        ("https://me:secret@hospital.example/ask", "headers="),
    ],
)
def test_an_address_that_is_not_safe_is_refused(url, said):
    with pytest.raises(SettingsError, match=said) as caught:
        Endpoint.from_url(url, classes=2, budget=1)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["https://hospital.example/ask", "http://localhost:8000/", "http://127.0.0.1/", "http://[::1]/"]
)
def test_a_safe_address_is_taken(url):
    Endpoint.from_url(url, classes=2, budget=1)


def test_who_insists_may_send_images_in_the_open():
    Endpoint.from_url("http://hospital.example/ask", classes=2, budget=1, insecure=True)


# -- a network in a file -----------------------------------------------------------------------------------------------

FLOAT, INT64, DOUBLE = 1, 7, 11  # the element types of ONNX
WEIGHT = np.stack([-Plane().w.detach().numpy(), Plane().w.detach().numpy()], 1)


def part(number, value):
    """One field of a protocol buffer, which ONNX files are: the onnx package is not needed to write a small one."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    value = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(value)) + value


def varint(value):
    low, rest = value & 127, value >> 7
    return bytes([low | 128]) + varint(rest) if rest else bytes([low])


def placed(name, kind, shape):
    sides = b"".join(part(1, part(1, side) if isinstance(side, int) else part(2, side)) for side in shape)
    return part(1, name) + part(2, part(1, part(1, kind) + part(2, sides)))


def node(operation, inputs, output, domain="", **numbers):
    attributes = b"".join(part(5, part(1, name) + part(3, value) + part(20, 2)) for name, value in numbers.items())
    named = b"".join(part(1, name) for name in inputs) + part(2, output) + part(4, operation)
    return named + attributes + (part(7, domain) if domain else b"")


def plane_file(folder, *, shape=("n", 3, 4, 4), kind=FLOAT, operation=None, labels=False, outside=None, both=False):
    """The plane as an ONNX file: logits of images in [0, 1], less the shift by half that `prepare` makes."""
    dtype = {FLOAT: np.float32, INT64: np.int64, DOUBLE: np.float64}[kind]
    held = (
        part(14, 1) + part(13, part(1, "location") + part(2, outside)) if outside else part(9, WEIGHT.astype(dtype).tobytes())
    )
    weight = part(1, 48) + part(1, 2) + part(2, kind) + part(8, "w") + held
    nodes = [
        node("Flatten", ["x"], "flat", axis=1),
        operation or node("MatMul", ["flat", "w"], "scores"),
        node("ArgMax", ["scores"], "label", axis=1, keepdims=0),
    ]
    outputs = [placed("scores", kind, (shape[0], 2)), placed("label", INT64, (shape[0],))]
    outputs = outputs if both else outputs[labels:][:1]
    graph = b"".join(part(1, one) for one in nodes) + part(2, "plane") + part(5, weight)
    graph += part(11, placed("x", kind, shape)) + b"".join(part(12, one) for one in outputs)
    imports = part(8, part(1, "") + part(2, 17)) + part(8, part(1, "their.own") + part(2, 1))
    path = folder / "plane.onnx"
    path.write_bytes(part(1, 8) + part(7, graph) + imports)
    return path


@pytest.fixture
def runtime():
    pytest.importorskip("onnxruntime")


runs_networks = pytest.mark.usefixtures("runtime")


def loaded(path, **settings):
    return Endpoint.from_onnx(path, **{"classes": 2, "prepare": lambda images: images - np.float32(0.5), **settings})


@runs_networks
@pytest.mark.parametrize("kind", [FLOAT, DOUBLE])
def test_a_network_in_a_file_answers_as_its_model(x, tmp_path, kind):
    torch.testing.assert_close(loaded(plane_file(tmp_path, kind=kind))(x), Plane()(x).detach(), rtol=1e-4, atol=1e-6)


@runs_networks
@pytest.mark.parametrize("rows", [1, 5, 64])
def test_a_network_of_a_fixed_batch_is_fed_by_batches(x, tmp_path, rows):
    model = loaded(plane_file(tmp_path, shape=(rows, 3, 4, 4)))
    torch.testing.assert_close(model(x), Plane()(x).detach(), rtol=1e-4, atol=1e-6)
    assert model.asked == 12


@runs_networks
def test_a_network_may_say_labels_alone(x, tmp_path):
    assert torch.equal(loaded(plane_file(tmp_path, labels=True))(x).argmax(1), Plane()(x).argmax(1))


@runs_networks
def test_of_several_outputs_one_is_chosen(x, tmp_path):
    path = plane_file(tmp_path, both=True)
    with pytest.raises(SettingsError, match="outputs scores, label; choose one with output_name="):
        loaded(path)
    with pytest.raises(SettingsError, match="'logits'"):
        loaded(path, output_name="logits")
    assert torch.equal(loaded(path, output_name="label")(x).argmax(1), loaded(path, output_name="scores")(x).argmax(1))


@runs_networks
def test_a_network_and_its_log_belong_together(x, tmp_path):
    loaded(plane_file(tmp_path), log=tmp_path / "log")(x)
    with pytest.raises(RecordsError, match="give another log"):
        loaded(plane_file(tmp_path, labels=True), log=tmp_path / "log")


@runs_networks
def test_a_library_of_operations_is_never_loaded(tmp_path):
    with pytest.raises(WeightsError, match=r"does not know.*their\.own"):
        loaded(plane_file(tmp_path, operation=node("Anything", ["flat", "w"], "scores", domain="their.own")))


@runs_networks
@pytest.mark.parametrize("place", ["../secret.bin", "secret.bin", "/etc/passwd"])
def test_weights_outside_the_file_are_not_read(tmp_path, place):
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "secret.bin", tmp_path / "folder" / "secret.bin"):
        path.write_bytes(WEIGHT.tobytes())
    with pytest.raises(WeightsError, match="outside"):
        loaded(plane_file(tmp_path / "folder", outside=place))


@runs_networks
@pytest.mark.parametrize("content", [b"", b"no network", None])
def test_a_damaged_network_is_refused(tmp_path, content):
    path = plane_file(tmp_path)
    path.write_bytes(path.read_bytes()[:100] if content is None else content)
    with pytest.raises(WeightsError, match="cannot be loaded"):
        loaded(path)


@runs_networks
def test_onnxruntimes_own_format_is_not_taken_for_onnx(tmp_path):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.save_model_format", "ORT")
    options.optimized_model_filepath = str(tmp_path / "other.onnx")
    onnxruntime.InferenceSession(plane_file(tmp_path), options, providers=["CPUExecutionProvider"])
    with pytest.raises(WeightsError, match="cannot be loaded"):
        loaded(tmp_path / "other.onnx")


@runs_networks
def test_a_network_that_takes_something_else_is_refused(x, tmp_path):
    with pytest.raises(ModelError, match=r"tensor\(int64\).*expected floating-point images"):
        loaded(plane_file(tmp_path, kind=INT64))
    with pytest.raises(ModelError, match="expected floating-point images"):
        loaded(plane_file(tmp_path, shape=("n", 48)))
    with pytest.raises(ModelError, match=r"\(3, 4, 4\).*got \(1, 4, 4\)"):
        loaded(plane_file(tmp_path))(x[:, :1])
    with pytest.raises(ModelError, match="cannot be run on images"):
        loaded(plane_file(tmp_path, shape=("n", 3, "h", "w")))(x[..., :2])


@pytest.mark.parametrize(("name", "said"), [("absent.onnx", "cannot read"), ("weights.pth", "expected a file .onnx")])
def test_what_is_no_onnx_file_is_refused(tmp_path, name, said):
    with pytest.raises(WeightsError, match=said):
        loaded(tmp_path / name)


def test_a_file_too_large_to_be_one_is_refused(tmp_path):
    with (tmp_path / "a.onnx").open("wb") as file:
        file.truncate(2**31 + 1)  # holes take no room
    with pytest.raises(WeightsError, match="at most"):
        loaded(tmp_path / "a.onnx")


def test_without_onnxruntime_the_message_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(SettingsError, match=r"antivenom\[onnx\]"):
        loaded(plane_file(tmp_path))


# -- under attack ------------------------------------------------------------------------------------------------------


@runs_networks
def test_an_attack_by_decisions_meets_the_same_in_the_file_as_in_the_model(x, tmp_path):
    y, draws = Plane()(x).argmax(1), Draws.of(0, torch.arange(12))
    settings = {"queries": 80, "probes": 10, "generator": draws}
    inside = hop_skip_jump(Plane().eval(), x, Untargeted(y), L2(float("inf")), **settings)
    outside = hop_skip_jump(loaded(plane_file(tmp_path, labels=True)), x, Untargeted(y), L2(float("inf")), **settings)
    assert torch.equal(inside.queries, outside.queries)
    torch.testing.assert_close(inside.x_adv, outside.x_adv, rtol=0, atol=1e-3)
    assert outside.success.all()
