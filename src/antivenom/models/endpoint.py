"""A model that only answers: asked within a budget, no faster than allowed, and never twice about the same image.

Every answer is kept under the SHA-256 of its image. With a log they are on disk as soon as they are there: a run that was
killed meets the same images in the same order when it is started again, is answered from the log up to where it ended, and
goes on from there.

    {"classes": 2, "format": 1, "model": "chest service"}
    {"answer": [1.5, -0.25], "image": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"}
    ...

A line that a kill tore off is dropped when the log is read; a line damaged in any other way is an error.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import io
import ipaddress
import json
import os
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

import numpy as np
import torch
from torch import Tensor

from antivenom.errors import EndpointError, ImageError, ModelError, RecordsError, SettingsError, WeightsError

Array = np.ndarray[Any, Any]
Ask = Callable[[Array], Any]  # images (b, C, H, W) float32 to answers (b, A), or to labels (b,) where it says no more

TRANSIENT = (ConnectionError, TimeoutError)  # what may go by itself; anything else that `ask` raises is passed on
LONGEST_WAIT = 60.0  # seconds
LARGEST_MODEL = 2**31  # bytes; what the ONNX format itself can hold in one file
LARGEST_RESPONSE = 2**24  # bytes; some hundred thousand numbers as text
PIECE = 2**16  # bytes read at a time
_FORMAT = 1


@dataclass(frozen=True)
class Patience:
    """How long a service is waited for.

    Attributes:
        retries: how often images are sent again after a failure that may go by itself.
        wait: seconds before the first of these; twice as long before each further one, a minute at most.
        clock, sleep: seconds that never run backwards, and a pause of so many.
    """

    retries: int = 4
    wait: float = 1.0
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


class Endpoint:
    """A model that only answers, as every black-box attack takes it: images `(B, C, H, W)` to answers `(B, A)` float32.

    An image is asked about once, then answered from memory or from the log. So a service that answers at random looks
    steady; and no gradient comes back, which attacks that need one say in their flags.

    Args:
        ask: images `(b, C, H, W)` float32 to scores `(b, A)`, or to labels `(b,)` of integers, which become 1 and 0. It may
            raise `ConnectionError` or `TimeoutError` for what may go by itself.
        classes: A.
        budget: images that may be sent, those sent again included; None: any number. What the log answers costs nothing, so
            the budget is that of one run, not of all that share a log.
        per_second: images sent in a second on average, no more than that at once; None: as fast as it goes.
        log: file of the answers, made when first needed; used by one run at a time.
        name: which model it is; a log of another is refused.
        at_once: images that are sent together.
        patience: how long the service is waited for.

    Raises:
        SettingsError: no class, a budget or rate that cannot be.
        RecordsError: the log is damaged, of another model, or cannot be read or written.

    >>> def service(images):
    ...     return images.mean((1, 2, 3))[:, None] * [1, -1]
    >>> endpoint = Endpoint(service, classes=2, budget=100)
    >>> endpoint(torch.ones(2, 1, 4, 4)).tolist(), endpoint.asked  # the same image twice
    ([[1.0, -1.0], [1.0, -1.0]], 1)
    """

    def __init__(
        self,
        ask: Ask,
        *,
        classes: int,
        budget: int | None,
        per_second: float | None = None,
        log: str | os.PathLike[str] | None = None,
        name: str = "",
        at_once: int = 16,
        patience: Patience = Patience(),
    ) -> None:
        if classes < 1 or at_once < 1 or patience.retries < 0:
            raise SettingsError(
                f"an endpoint needs classes, got classes={classes}, at_once={at_once}, {patience.retries} retries"
            )
        if (budget is not None and budget < 0) or (per_second is not None and not per_second > 0):
            raise SettingsError(f"budget must not be negative and per_second positive, got {budget} and {per_second}")
        self.classes, self.budget, self.per_second, self.asked = classes, budget, per_second, 0
        self._ask, self._patience = ask, patience
        self._at_once = at_once if per_second is None else min(at_once, max(1, int(per_second)))
        self._log = None if log is None else _Log(Path(log), {"format": _FORMAT, "model": name, "classes": classes})
        self._known: dict[str, Array] = {} if self._log is None else self._log.answers()
        self._free_at = -float("inf")

    # -- where it comes from -------------------------------------------------------------------------------------------

    @staticmethod
    def from_onnx(
        path: str | os.PathLike[str],
        *,
        classes: int,
        budget: int | None = None,
        per_second: float | None = None,
        log: str | os.PathLike[str] | None = None,
        input_name: str | None = None,
        output_name: str | None = None,
        prepare: Callable[[Array], Array] | None = None,
        at_once: int = 64,
        patience: Patience = Patience(),
    ) -> Endpoint:
        """A network in an ONNX file, run by onnxruntime on the CPU.

        Only the operations that onnxruntime brings along can run: no library of others is ever loaded, and the weights must
        lie in the file itself.

        Args:
            path: ends in .onnx.
            classes, budget, per_second, log, at_once, patience: as above.
            input_name, output_name: where the network has several.
            prepare: what is done to images `(b, C, H, W)` float32 in front of it, such as normalisation.

        Raises:
            SettingsError: onnxruntime is not installed, or a name that the network does not have.
            WeightsError: missing, damaged, too large, or made of operations that onnxruntime does not know.
            ModelError: what it takes is not floating-point images `(B, C, H, W)`.
            RecordsError: as above.
        """
        network = _Network.of(Path(path), input_name, output_name, prepare)
        return Endpoint(
            network,
            classes=classes,
            budget=budget,
            per_second=per_second,
            log=log,
            name=f"onnx {network.digest}",
            at_once=at_once,
            patience=patience,
        )

    @staticmethod
    def from_url(
        url: str,
        *,
        classes: int,
        budget: int | None,
        per_second: float | None = None,
        log: str | os.PathLike[str] | None = None,
        headers: Mapping[str, str] | None = None,
        packed: bool = False,
        timeout: float = 30.0,
        largest: int = LARGEST_RESPONSE,
        insecure: bool = False,
        name: str = "",
        at_once: int = 16,
        patience: Patience = Patience(),
    ) -> Endpoint:
        """A service that is asked over HTTP, in JSON.

        It is sent by POST, Content-Type application/json,

            {"images": [[[[0.0, 0.5, ...], ...], ...], ...]}     b images, each channels x height x width

        or, where `packed`, the same float32 array `(b, C, H, W)` as a .npy file in base64:

            {"images_npy": "k05VTVBZ..."}

        and answers one of

            {"answers": [[1.5, -0.25], ...]}                     b times A numbers, in the order of the classes
            {"labels": [0, ...]}                                 b numbers of classes, where it says no more

        A status of 408, 429 or 500 to 504 is taken to go by itself, as is a connection that breaks; any other but success is
        an error, a redirect too.

        Args:
            url: https, or http on this machine.
            classes, budget, per_second, log, at_once, patience: as above.
            headers: sent along, such as an authorisation; neither logged nor shown.
            packed: less to send, and no text to read for the service.
            timeout: seconds until it says something, and until it has said all.
            largest: bytes of a response; a larger one is an error.
            insecure: allow http to another machine, where anyone between can read the images.
            name: which model it is; empty: the address.

        Raises:
            SettingsError: an address that is not http or https, that carries a password, or that is not secure.
            RecordsError: as above.
        """
        service = _Service.of(url, headers or {}, packed=packed, timeout=timeout, largest=largest, insecure=insecure)
        return Endpoint(
            service,
            classes=classes,
            budget=budget,
            per_second=per_second,
            log=log,
            name=name or service.name,
            at_once=at_once,
            patience=patience,
        )

    # -- asking --------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Answer images `(B, C, H, W)` with `(B, A)` float32, on their device.

        Raises:
            ImageError: not a batch of finite images.
            EndpointError: the budget is spent, or the service still fails when patience ends.
            ModelError: an answer of another shape, or one that is not finite.
            RecordsError: the log cannot be written.
        """
        if images.ndim != 4 or not bool(images.isfinite().all()):
            raise ImageError(f"images must be finite and of shape (B, C, H, W), got shape {tuple(images.shape)}")
        batch = np.ascontiguousarray(images.detach().to("cpu", torch.float32).numpy())
        keys = [_key(image) for image in batch]
        unknown = {key: place for place, key in reversed(list(enumerate(keys))) if key not in self._known}
        places = sorted(unknown.values())
        while places:
            room = self._at_once if self.budget is None else min(self._at_once, self.budget - self.asked)
            now, places = places[: max(1, room)], places[max(1, room) :]
            self._learn([keys[place] for place in now], self._answers(batch[now]))
        found = [self._known[key] for key in keys]
        return torch.from_numpy(np.array(found, dtype=np.float32).reshape(len(keys), self.classes)).to(images.device)

    def _learn(self, keys: list[str], answers: Array) -> None:
        found = dict(zip(keys, answers, strict=True))
        if self._log is not None:
            self._log.add(found)
        self._known |= found

    def _answers(self, images: Array) -> Array:
        """Send images until they are answered, or patience or budget end."""
        for attempt in range(self._patience.retries + 1):
            if attempt:
                self._patience.sleep(min(self._patience.wait * 2.0 ** (attempt - 1), LONGEST_WAIT))
            self._spend(len(images))
            try:
                return _checked(self._ask(images.copy()), len(images), self.classes)
            except TRANSIENT as error:
                failure = error
        raise EndpointError(
            f"the service failed {self._patience.retries + 1} times, last with {type(failure).__name__}: {failure}; "
            f"{self._state()}"
        ) from failure

    def _spend(self, images: int) -> None:
        if self.budget is not None and self.asked + images > self.budget:
            raise EndpointError(f"the budget of {self.budget} images is spent: {self._state()}")
        if self.per_second is not None:
            now = self._patience.clock()
            if now < self._free_at:
                self._patience.sleep(self._free_at - now)
            self._free_at = max(now, self._free_at) + images / self.per_second
        self.asked += images

    def _state(self) -> str:
        if self._log is None:
            return f"{self.asked} images were asked, and with log=FILE their answers would have outlived this run"
        return (
            f"{self.asked} images were asked, and {len(self._known)} answers lie in {self._log.path}: "
            "the same run goes on from there when it is started again, with a budget of its own"
        )


def _key(image: Array) -> str:
    digest = hashlib.sha256(f"float32|{image.shape}|".encode())
    digest.update(image.astype("<f4", copy=False).tobytes())
    return digest.hexdigest()


def _checked(raw: Any, images: int, classes: int) -> Array:
    """Answers `(images, classes)` float32 of whatever came; labels become 1 and 0."""
    try:
        answer = np.asarray(raw)
    except ValueError:
        raise ModelError(f"a model that only answers must answer ({images}, {classes}), got rows of different length") from None
    if answer.shape == (images,) and answer.dtype.kind in "iu":
        if not ((answer >= 0) & (answer < classes)).all():
            raise ModelError(f"labels must lie in 0..{classes - 1}, got {answer.min()}..{answer.max()}; check classes=")
        chosen: Array = np.eye(classes, dtype=np.float32)[answer]
        return chosen
    if answer.shape != (images, classes) or answer.dtype.kind not in "fiu":
        raise ModelError(
            f"a model that only answers must answer numbers ({images}, {classes}) or whole labels ({images},) for {images} "
            f"images, got {answer.dtype} of shape {answer.shape}"
        )
    with np.errstate(over="ignore"):
        answer = answer.astype(np.float32)
    if not np.isfinite(answer).all():
        raise ModelError("the service answered with a NaN or an infinity, which no attack can compare")
    return answer


# -- the log -----------------------------------------------------------------------------------------------------------


class _Log:
    """Answers on disk, one a line, each written before it is used."""

    def __init__(self, path: Path, header: Mapping[str, Any]) -> None:
        self.path, self.header = path, dict(header)
        self._begun = False

    def answers(self) -> dict[str, Array]:
        """What the log holds; what a kill tore off is removed, or the next answer would be written behind it."""
        try:
            content = self.path.read_bytes() if self.path.exists() else b""
            whole = content[: content.rfind(b"\n") + 1]
            if len(whole) < len(content):
                os.truncate(self.path, len(whole))
        except OSError as error:
            raise RecordsError(f"cannot read the log {self.path}: {error.strerror or error}") from error
        lines = whole.splitlines()
        if not lines:
            return {}
        self._check_header(self._line(lines[0], 1))
        self._begun = True
        return dict(self._answer(self._line(line, number), number) for number, line in enumerate(lines[1:], 2))

    def add(self, answers: Mapping[str, Array]) -> None:
        """Append answers and make sure that they are on disk."""
        lines: list[dict[str, Any]] = [] if self._begun else [self.header]
        lines += [{"image": key, "answer": [float(value) for value in answer]} for key, answer in answers.items()]
        text = "".join(json.dumps(line, sort_keys=True, allow_nan=False) + "\n" for line in lines)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as file:
                file.write(text.encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise RecordsError(
                f"cannot write the log {self.path}: {error.strerror or error}; make room, then start the same run again"
            ) from error
        self._begun = True

    def _line(self, line: bytes, number: int) -> dict[str, Any]:
        try:
            value: Any = json.loads(line)
        except ValueError:
            value = None
        if not isinstance(value, dict):
            raise self._damaged(number)
        return value

    def _check_header(self, header: dict[str, Any]) -> None:
        if header.get("format") != _FORMAT:
            raise self._damaged(1)
        if header != self.header:
            raise RecordsError(
                f"{self.path} holds answers of {header.get('model')!r} with {header.get('classes')} classes, not of "
                f"{self.header['model']!r} with {self.header['classes']}; give another log"
            )

    def _answer(self, line: dict[str, Any], number: int) -> tuple[str, Array]:
        key, values = line.get("image"), line.get("answer")
        numbers = isinstance(values, list) and all(isinstance(value, float) for value in values)
        if not isinstance(key, str) or len(key) != 64 or not numbers or len(values or ()) != self.header["classes"]:
            raise self._damaged(number)
        return key, np.array(values, dtype=np.float32)

    def _damaged(self, number: int) -> RecordsError:
        return RecordsError(f"{self.path} is damaged at line {number}: no log of answers, or altered; give another log")


# -- a network in a file -----------------------------------------------------------------------------------------------

_FLOATS = {"tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(float16)": np.float16}


@dataclass(frozen=True)
class _Network:
    """An ONNX network as a function of images."""

    session: Any
    input_name: str
    output_name: str
    shape: tuple[Any, ...]  # of its input; a name or None where any length will do
    dtype: Any
    prepare: Callable[[Array], Array] | None
    digest: str  # of the file

    @staticmethod
    def of(path: Path, input_name: str | None, output_name: str | None, prepare: Callable[[Array], Array] | None) -> _Network:
        content = _read_model(path)
        session = _session(path, content)
        given = _named("input", session.get_inputs(), input_name, path)
        answer = _named("output", session.get_outputs(), output_name, path)
        if given.type not in _FLOATS or len(given.shape) != 4:
            raise ModelError(
                f"{path} takes {given.type} {given.shape} as {given.name!r}; expected floating-point images (B, C, H, W): "
                "run it in a function of your own, and give that to Endpoint"
            )
        dtype, digest = _FLOATS[given.type], hashlib.sha256(content).hexdigest()
        return _Network(session, given.name, answer.name, tuple(given.shape), dtype, prepare, digest)

    def __call__(self, images: Array) -> Any:
        if self.prepare is not None:
            images = self.prepare(images)
        images = np.ascontiguousarray(images, dtype=self.dtype)
        wanted = zip(self.shape[1:], images.shape[1:], strict=False)
        if images.ndim != 4 or any(isinstance(want, int) and want != got for want, got in wanted):
            raise ModelError(f"the network takes images {self.shape[1:]} (channels, height, width), got {images.shape[1:]}")
        rows = self.shape[0] if isinstance(self.shape[0], int) else len(images)
        return np.concatenate([self._run(images[at : at + rows], rows) for at in range(0, len(images), rows)])

    def _run(self, images: Array, rows: int) -> Array:
        """A network of a fixed batch sees the last image again where there are too few."""
        filled = images[np.minimum(np.arange(rows), len(images) - 1)]
        try:
            (answer,) = self.session.run([self.output_name], {self.input_name: filled})
        except Exception as error:  # onnxruntime's errors have no parent of their own
            raise ModelError(f"the network cannot be run on images {filled.shape}: {str(error).splitlines()[0]}") from error
        found: Array = np.asarray(answer)[: len(images)]
        return found


def _read_model(path: Path) -> bytes:
    if path.suffix != ".onnx":
        raise WeightsError(f"{path}: expected a file .onnx")
    try:
        size = path.stat().st_size
        if size > LARGEST_MODEL:
            raise WeightsError(f"{path} has {size} bytes; an ONNX file has at most {LARGEST_MODEL}")
        return path.read_bytes()
    except OSError as error:
        raise WeightsError(f"cannot read {path}: {error.strerror or error}") from error


def _session(path: Path, content: bytes) -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise SettingsError(f"{path} needs onnxruntime; install antivenom[onnx]") from None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what goes wrong is raised, not printed
    options.add_session_config_entry("session.load_model_format", "ONNX")  # and nothing else that it could take it for
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no parent of their own
        raise WeightsError(
            f"{path} cannot be loaded: damaged, made of operations that onnxruntime does not know, or its weights lie outside "
            f"it ({str(error).splitlines()[0]})"
        ) from error


def _named(what: str, there: Iterable[Any], name: str | None, path: Path) -> Any:
    there = list(there)
    names = [one.name for one in there]
    if name is None and len(there) == 1:
        return there[0]
    if name not in names:
        raise SettingsError(f"{path} has the {what}s {', '.join(names)}; choose one with {what}_name=, got {name!r}")
    return there[names.index(name)]


# -- a service at an address -------------------------------------------------------------------------------------------

_PASSING = {408, 429, 500, 502, 503, 504}


class _Stay(urllib.request.HTTPRedirectHandler):
    """Images go where they were meant to go, and nowhere else."""

    def redirect_request(self, *_: Any) -> None:
        return None


@dataclass(frozen=True)
class _Service:
    """An address as a function of images."""

    url: str
    name: str
    headers: Mapping[str, str] = field(repr=False)
    packed: bool
    timeout: float
    largest: int
    opener: urllib.request.OpenerDirector

    @staticmethod
    def of(url: str, headers: Mapping[str, str], *, packed: bool, timeout: float, largest: int, insecure: bool) -> _Service:
        try:
            place = urlsplit(url)
            shown = f"{place.scheme}://{place.netloc.rpartition('@')[2]}{place.path}"
        except ValueError as error:
            raise SettingsError(f"this is no address ({error})") from None
        if place.scheme not in {"http", "https"} or not place.hostname:
            raise SettingsError(f"{shown}: an endpoint's address begins with https:// and names a host")
        if place.username or place.password:
            raise SettingsError(f"{shown}: leave the password out of the address and send it in headers=")
        local = _is_here(place)
        if place.scheme == "http" and not (local or insecure):
            raise SettingsError(
                f"{shown}: images would travel in the open; use https, or insecure=True where that is all right"
            )
        # Nothing on the way to this very machine; elsewhere the proxies of the environment.
        opener = urllib.request.build_opener(_Stay, *([urllib.request.ProxyHandler({})] if local else []))
        # An address may carry a key: it is told apart by its digest, and shown without.
        name = f"{shown} {hashlib.sha256(url.encode()).hexdigest()[:16]}"
        return _Service(url, name, dict(headers), packed, timeout, largest, opener)

    def __call__(self, images: Array) -> Any:
        body = {"images_npy": _npy(images)} if self.packed else {"images": images.tolist()}
        headers = {**self.headers, "Content-Type": "application/json", "Accept": "application/json"}
        request = urllib.request.Request(self.url, json.dumps(body).encode(), headers, method="POST")
        try:
            answer: Any = json.loads(self._sent(request))
        except (ValueError, RecursionError):
            raise ModelError(f"{self.name} answered with something that is no JSON") from None
        if isinstance(answer, dict) and len({"answers", "labels"} & answer.keys()) == 1:
            return answer["answers"] if "answers" in answer else answer["labels"]
        raise ModelError(f'{self.name} must answer {{"answers": [...]}} or {{"labels": [...]}}, see Endpoint.from_url')

    def _sent(self, request: urllib.request.Request) -> bytes:
        ends = time.monotonic() + self.timeout
        try:
            with self.opener.open(request, timeout=self.timeout) as response:
                return self._body(response, ends)
        except urllib.error.HTTPError as error:
            with error:
                return self._refused(error.code)
        except urllib.error.URLError as error:
            if isinstance(error.reason, ssl.SSLCertVerificationError):
                raise ModelError(f"{self.name} cannot prove who it is: {error.reason}") from error
            raise ConnectionError(f"{self.name}: {error.reason}") from error
        except http.client.HTTPException as error:
            raise ConnectionError(f"{self.name}: {type(error).__name__}") from error

    def _refused(self, code: int) -> bytes:
        if code in _PASSING:
            raise ConnectionError(f"{self.name}: status {code}")
        if 300 <= code < 400:
            raise ModelError(f"{self.name} sends on to another address (status {code}), which is not followed; give that one")
        raise ModelError(f"{self.name} refuses with status {code}; check the address, the headers and the form of the images")

    def _body(self, response: Any, ends: float) -> bytes:
        """All that it says, but neither more than agreed nor for longer: every single read may be in time and all too slow."""
        body = bytearray()
        while piece := response.read1(PIECE):
            body += piece
            if len(body) > self.largest:
                raise ModelError(f"{self.name} answered with more than {self.largest} bytes")
            if time.monotonic() > ends:
                raise TimeoutError(f"{self.name}: no whole answer within {self.timeout:g} seconds")
        if response.length:  # of what it said that it would send, so much is missing
            raise ConnectionError(f"{self.name} broke off its answer")
        return bytes(body)


def _npy(images: Array) -> str:
    file = io.BytesIO()
    np.save(file, images, allow_pickle=False)
    return base64.b64encode(file.getvalue()).decode()


def _is_here(place: SplitResult) -> bool:
    if place.hostname == "localhost":
        return True
    try:
        return ipaddress.ip_address(place.hostname or "").is_loopback
    except ValueError:
        return False
