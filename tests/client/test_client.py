"""Both clients with a server that misbehaves: the result is the whole tensor, or an exception with the reason."""

import asyncio
import copy
import io
import json
import pickle
import re
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import httpx
import numpy as np
import pytest
import torch

import weightwell
from weightwell.transfers import wire

if TYPE_CHECKING:
    from tests.client.conftest import Server

Connect = Callable[..., Any]

SHAPE = (300, 7)  # of float32: 8400 bytes, enough to be cut anywhere
SIZE = 8400


@pytest.fixture(params=["short", "long"], autouse=True)
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test here runs over both ways of receiving: through httpx, and past it."""
    if request.param == "long":
        monkeypatch.setattr(wire, "LONG", 1)


def bits(tensor: Any) -> bytes:
    return bytes(np.asarray(tensor).tobytes())


# Requests ------------------------------------------------------------------------------------------------------------


def test_a_tensor_has_the_bytes_of_the_server(fake: "Server", connect: Connect) -> None:
    tensor = connect(fake.url).init(SHAPE, "kaiming_normal", seed=42, a=0.2, mode="fan_out")
    assert isinstance(tensor, torch.Tensor)
    assert (tensor.shape, tensor.dtype) == (SHAPE, torch.float32)
    assert bits(tensor) == fake.pattern(SIZE)
    assert fake.requests[0].fields == {
        "shape": "300,7",
        "scheme": "kaiming_normal",
        "seed": "42",
        "dtype": "float32",
        "a": "0.2",
        "mode": "fan_out",
    }


def test_a_slice_is_requested_with_the_shape_of_the_whole_tensor(fake: "Server", connect: Connect) -> None:
    tensor = connect(fake.url).init(SHAPE, "ones", slice=np.s_[100:, -2:])
    assert tensor.shape == (200, 2)
    assert (fake.requests[0].fields["shape"], fake.requests[0].fields["slice"]) == ("300,7", "100:300,5:7")


def test_a_long_spec_is_posted(fake: "Server", connect: Connect) -> None:
    tensor = connect(fake.url).init(SHAPE, "normal", name="x" * 5000, seed=2**64 - 1, std=0.02)
    assert tensor.shape == SHAPE
    asked = fake.requests[0]
    assert asked.method == "POST"
    assert (asked.fields["shape"], asked.fields["seed"], asked.fields["std"]) == ([300, 7], 2**64 - 1, 0.02)


def test_the_base_url_may_have_a_path(fake: "Server", connect: Connect) -> None:
    connect(f"{fake.url}/models/v1/").init(3, "ones")
    assert fake.requests[0].path == "/models/v1/init"


def test_the_base_url_is_read_from_the_environment(
    fake: "Server", connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WEIGHTWELL_URL", fake.url)
    assert connect(None).gain("relu") == 1.5


def test_headers_and_credentials_are_sent(fake: "Server", connect: Connect) -> None:
    connect(fake.url, headers={"X-Team": "vision"}, auth=("ada", "secret")).gain("relu")
    sent = fake.requests[0].headers
    assert sent["x-team"] == "vision"
    assert sent["authorization"].startswith("Basic ")
    assert sent["accept-encoding"] == "identity"
    assert sent["user-agent"].startswith("weightwell/")


def test_an_address_without_http_is_refused(connect: Connect) -> None:
    with pytest.raises(ValueError, match="base_url must begin with http"):
        connect("localhost:8000")


def test_a_gain_is_a_float(fake: "Server", connect: Connect) -> None:
    assert connect(fake.url).gain("leaky_relu", 0.2, source="torch") == 1.5
    assert fake.requests[0].fields == {"nonlinearity": "leaky_relu", "param": "0.2", "source": "torch"}


def test_a_gain_keeps_the_other_fields_of_its_answer(fake: "Server", connect: Connect) -> None:
    row = {"nonlinearity": "gelu", "source": "quadrature", "gain": 1.5, "mean": 0.25, "slope": 1.125, "chi_1": None}
    row |= {"stability": "unstable", "edge_of_chaos": {"weight_variance": 2.0}}
    fake.faults.append(fake.answer(200, json.dumps(row).encode()))
    gain = connect(fake.url).gain("gelu", source="quadrature", bias_variance=0.5)
    assert fake.requests[0].fields["bias_variance"] == "0.5"
    copies = [pickle.loads(pickle.dumps(gain, protocol)) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)]  # noqa: S301
    for each in (gain, copy.deepcopy(gain), *copies):
        assert isinstance(each, weightwell.Gain)
        assert (each, repr(each), each.answer) == (1.5, "1.5", row)
        assert (each.slope, each.stability, each.chi_1) == (1.125, "unstable", None)
        assert each.edge_of_chaos == {"weight_variance": 2.0}
    assert type(gain * 2) is float
    assert json.dumps([gain, float(gain)]) == "[1.5, 1.5]"
    assert connect(fake.url).gain("relu").slope is None


def test_gains_are_a_table_of_floats(fake: "Server", connect: Connect) -> None:
    assert connect(fake.url).gains() == {"relu": 1.5}


def test_the_catalogue_is_the_servers(fake: "Server", connect: Connect) -> None:
    assert connect(fake.url).schemes()["schemes"][0]["name"] == "ones"


def test_the_presets_are_the_servers(fake: "Server", connect: Connect) -> None:
    assert connect(fake.url).presets()["presets"][0]["name"] == "gpt2"


@pytest.mark.parametrize("kind", [weightwell.Client, weightwell.AsyncClient])
def test_the_repr_of_a_client_is_its_address_without_secrets(kind: Any) -> None:
    client = kind("http://ada:secret@weights.test:8000/v1/", headers={"Authorization": "Bearer secret"})
    assert repr(client) == f"{kind.__name__}('http://weights.test:8000/v1')"


# What the server refuses ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "exception"),
    [
        (400, weightwell.InvalidRequest),
        (401, weightwell.AccessDenied),
        (403, weightwell.AccessDenied),
        (404, weightwell.NotFound),
        (405, weightwell.NotFound),
        (413, weightwell.TooLarge),
        (416, weightwell.ServerProblem),
        (422, weightwell.InvalidRequest),
        (500, weightwell.ServerProblem),
    ],
)
def test_a_refusal_carries_the_servers_problem_and_is_final(
    fake: "Server", connect: Connect, status: int, exception: type[weightwell.ServerProblem]
) -> None:
    sentence = "std must be at least 0, got -1"
    errors = [{"field": "std", "got": -1, "expected": "at least 0", "detail": sentence}]
    fake.faults.append(fake.refuse(status, type="urn:problem", title="Wrong", detail=sentence, errors=errors))
    with pytest.raises(exception) as caught:
        connect(fake.url).init(3, "normal", std=-1)
    assert type(caught.value) is exception
    assert caught.value.problem == weightwell.Problem(
        status=status,
        type="urn:problem",
        title="Wrong",
        detail=sentence,
        errors=(weightwell.FieldError("std", -1, "at least 0", sentence),),
    )
    assert str(caught.value) == f"{sentence} (HTTP {status})"
    assert len(fake.requests) == 1


def test_a_refusal_survives_a_process_boundary(fake: "Server", connect: Connect) -> None:
    fake.faults.append(fake.refuse(422, detail="no"))
    with pytest.raises(weightwell.InvalidRequest) as caught:
        connect(fake.url).init(3, "normal")
    copy = pickle.loads(pickle.dumps(caught.value))  # noqa: S301 - our own bytes
    assert (type(copy), copy.problem, str(copy)) == (weightwell.InvalidRequest, caught.value.problem, str(caught.value))


def test_an_error_page_without_a_problem_is_quoted(fake: "Server", connect: Connect) -> None:
    fake.faults.append(fake.answer(500, b"<html>gateway of the ministry</html>"))
    with pytest.raises(weightwell.ServerProblem, match="gateway of the ministry"):
        connect(fake.url).gain("relu")


# What may succeed a little later -------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_a_busy_server_is_tried_again_after_retry_after(fake: "Server", connect: Connect, status: int) -> None:
    fake.faults.append(fake.refuse(status, retry_after="7"))
    client = connect(fake.url)
    assert client.gain("relu") == 1.5
    assert 7 <= client.naps[0] < 8
    assert len(client.naps) == 1


def test_a_server_that_stays_busy_is_reported_with_its_own_words(fake: "Server", connect: Connect) -> None:
    fake.faults.extend([fake.refuse(503, retry_after="1", detail="full house")] * 9)
    client = connect(fake.url, wait=3)
    with pytest.raises(weightwell.Busy, match="full house") as caught:
        client.init(3, "ones")
    assert caught.value.retry_after == 1.0
    assert len(fake.requests) == 3


def test_a_server_that_wants_too_long_a_wait_is_not_waited_for(fake: "Server", connect: Connect) -> None:
    fake.faults.append(fake.refuse(503, retry_after="86400"))
    client = connect(fake.url)
    with pytest.raises(weightwell.Busy):
        client.init(3, "ones")
    assert client.naps == []


def test_a_request_without_an_answer_is_tried_again(fake: "Server", connect: Connect) -> None:
    fake.faults.append(fake.silence)
    assert bits(connect(fake.url).init(SHAPE, "ones")) == fake.pattern(SIZE)


def test_a_failed_connection_names_the_address_without_credentials(connect: Connect) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    client = connect(f"http://ada:secret@127.0.0.1:{port}")
    with pytest.raises(weightwell.ConnectionFailed, match=f"http://127.0.0.1:{port}") as caught:
        client.gain("relu")
    assert "secret" not in str(caught.value)
    assert isinstance(caught.value.__context__, httpx.ConnectError)
    assert str(caught.value.__context__) in str(caught.value)
    assert sum(client.naps) == pytest.approx(3)


def test_a_server_that_has_answered_may_be_away_for_minutes(fake: "Server", connect: Connect) -> None:
    client = connect(fake.url)
    client.gain("relu")
    fake.faults.extend([fake.silence] * 9)
    client.gain("relu")
    assert 25 < sum(client.naps) < 300


def test_a_server_that_stays_away_is_given_up_after_minutes(fake: "Server", connect: Connect) -> None:
    client = connect(fake.url)
    client.gain("relu")
    fake.faults.extend([fake.silence] * 99)
    with pytest.raises(weightwell.TransportError, match="no answer came"):
        client.gain("relu")
    assert sum(client.naps) == pytest.approx(300)


def test_a_wait_of_no_seconds_is_one_attempt(fake: "Server", connect: Connect) -> None:
    fake.faults.append(fake.silence)
    with pytest.raises(weightwell.TransportError, match="no answer came"):
        connect(fake.url, wait=0).gain("relu")
    assert len(fake.requests) == 1


@pytest.mark.parametrize("wait", [-1, float("nan")])
def test_a_wait_that_is_no_time_is_refused(connect: Connect, wait: float) -> None:
    with pytest.raises(ValueError, match="wait must be a number of seconds, 0 or more, or None"):
        connect("http://weights.test", wait=wait)


def test_silence_before_the_answer_is_an_error_that_names_the_timeout(fake: "Server", connect: Connect) -> None:
    fake.faults.append(fake.stall(0))
    client = connect(fake.url, timeout=0.05, wait=0)
    with pytest.raises(weightwell.TimedOut, match="timeout="):
        client.init(SHAPE, "ones")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            {"field": "std", "got": -1, "expected": "at least 0", "detail": "std must be at least 0, got -1"},
            "std must be at least 0, got -1 (HTTP 422)",
        ),
        (
            {"field": "nonlinearity", "got": "gelu", "expected": "one of relu, tanh", "hint": "try tanh",
             "detail": "Unsupported nonlinearity gelu"},
            "Unsupported nonlinearity gelu (HTTP 422)\n"
            "  nonlinearity must be one of relu, tanh, got 'gelu'; try tanh",
        ),
        (
            {"field": "dtype", "got": "f", "expected": "float32", "hint": "did you mean float32?",
             "detail": "dtype must be float32, got 'f'; did you mean float32?"},
            "dtype must be float32, got 'f'; did you mean float32? (HTTP 422)",
        ),
    ],
)  # fmt: skip
def test_the_message_of_a_refusal_says_field_got_expected_and_hint_once(
    fake: "Server", connect: Connect, error: dict[str, Any], message: str
) -> None:
    fake.faults.append(fake.refuse(422, detail=error["detail"], errors=[error]))
    with pytest.raises(weightwell.InvalidRequest) as caught:
        connect(fake.url).gain("gelu")
    assert str(caught.value) == message
    assert caught.value.errors[0].hint == error.get("hint")


def test_the_message_of_a_refusal_has_a_line_for_every_field(fake: "Server", connect: Connect) -> None:
    errors = [{"field": name, "got": 1, "expected": "small", "detail": f"{name} is large"} for name in "ab"]
    fake.faults.append(fake.refuse(422, detail="a is large; b is large; and 3 more", errors=errors))
    with pytest.raises(weightwell.InvalidRequest) as caught:
        connect(fake.url).gain("gelu")
    assert str(caught.value).splitlines() == [
        "a is large; b is large; and 3 more (HTTP 422)",
        "  a must be small, got 1",
        "  b must be small, got 1",
    ]


# Broken bodies -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sent", [1, 7, 8, 50, 200])
def test_a_header_that_breaks_is_requested_again(fake: "Server", connect: Connect, sent: int) -> None:
    fake.faults.append(fake.cut(sent))
    assert bits(connect(fake.url).init(SHAPE, "ones")) == fake.pattern(SIZE)
    assert "range" not in fake.requests[1].headers


@pytest.mark.parametrize("sent", [1000, 8500])
def test_a_broken_body_goes_on_where_it_broke(fake: "Server", connect: Connect, sent: int) -> None:
    fake.faults.append(fake.cut(sent))
    client = connect(fake.url)
    assert bits(client.init(SHAPE, "ones")) == fake.pattern(SIZE)
    assert fake.requests[1].headers["range"] == f"bytes={sent}-"
    assert fake.requests[1].headers["if-range"] == fake.etag_of(fake.file_of(fake.requests[0].fields))
    assert len(client.naps) == 1


def test_a_connection_that_is_reset_is_a_broken_body(fake: "Server", connect: Connect) -> None:
    fake.faults.append(fake.reset(4000))
    assert bits(connect(fake.url).init(SHAPE, "ones")) == fake.pattern(SIZE)
    assert len(fake.requests) == 2


def test_a_body_that_stalls_goes_on_where_it_stalled(fake: "Server", connect: Connect) -> None:
    fake.faults.append(fake.stall(4000))
    assert bits(connect(fake.url, timeout=0.1).init(SHAPE, "ones")) == fake.pattern(SIZE)
    assert fake.requests[1].headers["range"] == "bytes=4000-"


def test_every_byte_gained_renews_the_patience(fake: "Server", connect: Connect) -> None:
    fake.faults.extend([fake.cut(500)] * 10)
    client = connect(fake.url, wait=1)
    assert bits(client.init(SHAPE, "ones")) == fake.pattern(SIZE)
    assert len(client.naps) == 10
    assert max(client.naps) <= 0.5


def test_no_byte_gained_ends_the_patience(fake: "Server", connect: Connect) -> None:
    fake.faults.extend([fake.cut(500), *[fake.cut(0)] * 9])
    client = connect(fake.url, wait=2)
    with pytest.raises(weightwell.TruncatedBody) as caught:
        client.init(SHAPE, "ones")
    assert sum(client.naps) == pytest.approx(2)
    assert caught.value.received == 500
    assert caught.value.promised > SIZE
    assert pickle.loads(pickle.dumps(caught.value)).received == 500  # noqa: S301 - our own bytes


def test_a_truncated_body_is_an_error_where_nothing_is_tried_again(fake: "Server", connect: Connect) -> None:
    fake.faults.append(fake.cut(8000))
    with pytest.raises(weightwell.TruncatedBody, match="after 8000 of"):
        connect(fake.url, wait=0).init(SHAPE, "ones")


def test_a_server_without_ranges_starts_over(fake: "Server", connect: Connect) -> None:
    fake.faults.extend([fake.cut(5000), fake.without_ranges])
    assert bits(connect(fake.url).init(SHAPE, "ones")) == fake.pattern(SIZE)


def test_a_file_that_has_become_another_starts_over(fake: "Server", connect: Connect) -> None:
    fake.faults.extend([fake.cut(5000), fake.other_file])
    assert bits(connect(fake.url).init(SHAPE, "ones")) == fake.pattern(SIZE)


def test_starting_over_is_no_progress(fake: "Server", connect: Connect) -> None:
    fake.faults.append(fake.cut(5000))
    fake.faults.extend([lambda asked, answer: fake.cut(5000)(asked, fake.without_ranges(asked, answer))] * 9)
    client = connect(fake.url, wait=2)
    with pytest.raises(weightwell.TruncatedBody):
        client.init(SHAPE, "ones")
    assert sum(client.naps) == pytest.approx(2)


@pytest.mark.parametrize("etag", ["", 'W/"one"'])
def test_without_a_strong_etag_a_broken_body_starts_over(fake: "Server", connect: Connect, etag: str) -> None:
    fake.faults.append(lambda asked, answer: fake.cut(5000)(asked, answer.with_headers(ETag=etag)))
    assert bits(connect(fake.url).init(SHAPE, "ones")) == fake.pattern(SIZE)
    assert "range" not in fake.requests[1].headers


def test_a_broken_answer_to_a_post_starts_over(fake: "Server", connect: Connect) -> None:
    fake.faults.append(fake.cut(9000))
    assert bits(connect(fake.url).init(SHAPE, "ones", name="x" * 5000)) == fake.pattern(SIZE)
    assert "range" not in fake.requests[1].headers


@pytest.mark.parametrize(
    "wrong",
    [
        {"ETag": '"two"'},
        {"ETag": 'W/"one"'},
        {"Content_Range": "bytes 5001-{last}/{total}"},
        {"Content_Range": "bytes 5000-{last}/9000"},
        {"Content_Range": "bytes */{total}"},
        {"Content_Range": ""},
    ],
)
def test_the_rest_of_something_else_is_refused(fake: "Server", connect: Connect, wrong: dict[str, str]) -> None:
    total = len(fake.file_of({"shape": "300,7", "scheme": "ones", "dtype": "float32"}))
    headers = {key: value.format(last=total - 1, total=total) for key, value in wrong.items()}
    fake.faults.extend([fake.cut(5000), fake.change(**headers)])
    with pytest.raises(weightwell.UnexpectedResponse, match="not the requested range"):
        connect(fake.url).init(SHAPE, "ones")


# Answers that are none -----------------------------------------------------------------------------------------------


def test_a_page_in_place_of_a_file_is_refused(fake: "Server", connect: Connect) -> None:
    fake.faults.append(fake.answer(200, b"<html>please log in to the network</html>"))
    with pytest.raises(weightwell.InvalidFile):
        connect(fake.url).init(SHAPE, "ones")


@pytest.mark.parametrize("status", [204, 206, 304])
def test_an_unexpected_status_is_refused(fake: "Server", connect: Connect, status: int) -> None:
    fake.faults.append(fake.answer(status, b""))
    with pytest.raises(weightwell.UnexpectedResponse, match=f"expected 200, got {status}"):
        connect(fake.url).init(SHAPE, "ones")


def test_a_redirection_says_where_to(fake: "Server", connect: Connect) -> None:
    fake.faults.append(fake.answer(308, b"", Location="https://weights.example/init"))
    with pytest.raises(weightwell.UnexpectedResponse, match=r"to https://weights\.example/init"):
        connect(fake.url).init(SHAPE, "ones")


def test_an_encoded_body_is_refused(fake: "Server", connect: Connect) -> None:
    fake.faults.append(fake.change(Content_Encoding="gzip"))
    with pytest.raises(weightwell.UnexpectedResponse, match="gzip"):
        connect(fake.url).init(SHAPE, "ones")


def test_a_body_without_a_length_is_refused(fake: "Server", connect: Connect) -> None:
    fake.faults.append(lambda asked, answer: fake.cut(9000)(asked, answer.with_headers(Content_Length="")))
    with pytest.raises(weightwell.UnexpectedResponse, match="Content-Length"):
        connect(fake.url).init(SHAPE, "ones")


ASKED = {"shape": "300,7", "scheme": "kaiming_normal", "dtype": "float32", "seed": 42, "slice": "0:9,0:7", "a": 0.2}


@pytest.mark.parametrize(
    ("field", "other", "got"),
    [
        ("shape", "7,300", [7, 300]),
        ("slice", "0:8,0:7", "0:8,0:7"),
        ("slice", "0:300,0:7", None),
        ("dtype", "float16", "float16"),
        ("seed", 43, 43),
        ("name", "bias", "bias"),
        ("scheme", "he_uniform", "kaiming_uniform"),
        ("a", 0.1, 0.1),
        ("mode", "fan_out", "fan_out"),  # which was left to its default
        ("fan_in", 3, 3.0),
        ("generator", "torch", "torch"),
    ],
)
def test_the_answer_to_another_request_is_refused_by_the_field_that_differs(
    fake: "Server", connect: Connect, field: str, other: object, got: object
) -> None:
    fake.faults.append(fake.answer(200, fake.file_of({**ASKED, field: other})))
    client = connect(fake.url)
    with pytest.raises(weightwell.InvalidFile, match=f"{field}: requested .*, got {re.escape(repr(got))}"):
        client.init(SHAPE, "he_normal", seed=42, slice="0:9", a=np.float64(0.2))
    assert (len(fake.requests), client.naps) == (1, [])


def test_values_are_compared_and_not_how_they_were_written(fake: "Server", connect: Connect) -> None:
    client = connect(fake.url)
    asked = {**ASKED, "scheme": "he_normal", "seed": 2**64 - 1, "a": 1.0, "groups": 2, "mode": "fan_out"}
    fake.faults.append(fake.answer(200, fake.file_of(asked)))
    client.init(SHAPE, "he_normal", seed=2**64 - 1, slice="0:9", a=1, groups="2", mode="FAN_OUT", fan_in=None)


def test_a_scheme_that_only_the_server_knows_is_not_judged(fake: "Server", connect: Connect) -> None:
    fake.faults.append(fake.answer(200, fake.file_of({"shape": "3", "scheme": "ones", "dtype": "float32"})))
    connect(fake.url).init(3, "of_the_next_version")


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        (None, "does not come from a Weightwell server"),
        ({"format": "pt"}, "does not come from a Weightwell server"),
        ({"spec": "{"}, "is not JSON"),
        ({"spec": '{"tensors": []}'}, "not a spec of Weightwell"),
        ({"spec": '{"tensors": {"weight": 3}}'}, "requested .*, got 3"),
    ],
)
def test_a_file_that_does_not_say_how_it_was_drawn_is_refused(
    fake: "Server", connect: Connect, metadata: object, message: str
) -> None:
    tensor = {"dtype": "F32", "shape": [3], "data_offsets": [0, 12]}
    header = json.dumps({"__metadata__": metadata, "weight": tensor}).encode()
    fake.faults.append(fake.answer(200, len(header).to_bytes(8, "little") + header + bytes(12)))
    with pytest.raises(weightwell.InvalidFile, match=message):
        connect(fake.url).init(3, "ones")


def test_the_etag_of_another_file_is_refused(fake: "Server", connect: Connect) -> None:
    fake.faults.append(fake.change(ETag='"one"'))
    with pytest.raises(weightwell.InvalidFile, match=r'the ETag belongs to another file: .* got "one"'):
        connect(fake.url).init(3, "ones", name="x" * 5000)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({"nonlinearity": "tanh", "source": "torch"}, "nonlinearity: requested 'leaky_relu'.*, got 'tanh'"),
        ({"nonlinearity": "leaky_relu", "source": "quadrature"}, "source: requested 'torch', got 'quadrature'"),
        ({"nonlinearity": "leaky_relu", "source": "torch", "param": 0.1}, "param: requested 0.2, got 0.1"),
        ({"nonlinearity": "leaky_relu", "source": "torch", "param": None}, "param: requested 0.2, got None"),
        ({"schemes": []}, "nonlinearity: .*, got None"),
    ],
)
def test_the_gain_of_another_request_is_refused(
    fake: "Server", connect: Connect, answer: dict[str, Any], message: str
) -> None:
    fake.faults.append(fake.answer(200, json.dumps({"gain": 1.5, **answer}).encode()))
    with pytest.raises(weightwell.UnexpectedResponse, match=message):
        connect(fake.url).gain("leaky_relu", 0.2)


def test_a_connection_that_brought_the_answer_to_another_request_is_not_used_again(
    fake: "Server", connect: Connect
) -> None:
    client = connect(fake.url)
    fake.faults.append(fake.answer(200, fake.file_of({**ASKED, "seed": 43})))
    with pytest.raises(weightwell.InvalidFile):
        client.init(SHAPE, "he_normal", seed=42, slice="0:9", a=0.2)
    fake.faults.append(fake.answer(200, b'{"nonlinearity": "tanh"}'))
    with pytest.raises(weightwell.UnexpectedResponse):
        client.gain("relu")
    assert client.gain("relu") == 1.5
    assert fake.connections == 3


@pytest.mark.parametrize("verb", ["gains", "schemes"])
def test_a_document_of_another_kind_is_refused(fake: "Server", connect: Connect, verb: str) -> None:
    fake.faults.append(fake.answer(200, b'{"presets": []}'))
    with pytest.raises(weightwell.UnexpectedResponse):
        getattr(connect(fake.url), verb)()


def test_an_answer_of_another_form_is_refused(fake: "Server", connect: Connect) -> None:
    client = connect(fake.url)
    for body in (b"[1]", b'{"gain": "high"}', b"null", b"not JSON", b""):
        fake.faults.append(fake.answer(200, body))
        with pytest.raises(weightwell.UnexpectedResponse):
            client.gain("relu")


# Files ---------------------------------------------------------------------------------------------------------------


def test_a_file_is_the_servers_byte_for_byte(fake: "Server", connect: Connect, tmp_path: Path) -> None:
    fake.faults.extend([fake.cut(60), fake.cut(2000)])
    connect(fake.url).save(tmp_path / "weight.safetensors", SHAPE, "ones", seed=3)
    assert (tmp_path / "weight.safetensors").read_bytes() == fake.file_of(fake.requests[0].fields)
    assert list(tmp_path.iterdir()) == [tmp_path / "weight.safetensors"]
    assert fake.requests[0].fields["seed"] == "3"


def test_a_file_that_starts_over_has_nothing_of_its_first_beginning(
    fake: "Server", connect: Connect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("weightwell.transfers.destinations.BLOCK", 512)
    fake.faults.extend([fake.cut(5000), fake.other_file, fake.other_file])
    connect(fake.url).save(tmp_path / "weight.safetensors", SHAPE, "ones")
    assert (tmp_path / "weight.safetensors").read_bytes() == fake.file_of(fake.requests[0].fields, padding=8)


@pytest.mark.parametrize("before", [None, b"the old file"])
def test_a_failure_leaves_the_path_as_it_was(
    fake: "Server", connect: Connect, tmp_path: Path, before: bytes | None
) -> None:
    path = tmp_path / "weight.safetensors"
    if before is not None:
        path.write_bytes(before)
    fake.faults.append(fake.cut(5000))
    with pytest.raises(weightwell.TruncatedBody):
        connect(fake.url, wait=0).save(path, SHAPE, "ones")
    assert (path.read_bytes() if path.exists() else None) == before


@pytest.mark.parametrize("etag", ["", 'W/"one"'])
def test_what_cannot_be_gone_on_with_is_not_kept(fake: "Server", connect: Connect, tmp_path: Path, etag: str) -> None:
    fake.faults.append(lambda asked, answer: fake.cut(5000)(asked, answer.with_headers(ETag=etag)))
    with pytest.raises(weightwell.TruncatedBody):
        connect(fake.url, wait=0).save(tmp_path / "weight.safetensors", SHAPE, "ones")
    assert list(tmp_path.iterdir()) == []


def test_a_refusal_leaves_nothing(fake: "Server", connect: Connect, tmp_path: Path) -> None:
    fake.faults.append(fake.refuse(422, detail="no"))
    with pytest.raises(weightwell.InvalidRequest):
        connect(fake.url).save(tmp_path / "weight.safetensors", SHAPE, "ones")
    assert list(tmp_path.iterdir()) == []


def test_the_event_loop_does_not_wait_for_the_disk(fake: "Server") -> None:
    class File(io.BytesIO):
        writers: ClassVar[set[int]] = set()

        def write(self, data: Any) -> int:
            self.writers.add(threading.get_ident())
            return super().write(data)

    async def save(file: File) -> None:
        async with weightwell.AsyncClient(fake.url) as client:
            await client.save(file, SHAPE, "ones")

    file = File()
    asyncio.run(save(file))
    assert file.getvalue() == fake.file_of(fake.requests[0].fields)
    assert threading.get_ident() not in file.writers


# Progress -------------------------------------------------------------------------------------------------------------


def test_a_bar_has_the_name_of_the_tensor(fake: "Server", connect: Connect, capsys: pytest.CaptureFixture[str]) -> None:
    connect(fake.url, progress=True).init(SHAPE, "ones")
    assert "ones [300, 7] float32: 100%" in capsys.readouterr().err


def test_a_small_answer_has_no_bar(fake: "Server", connect: Connect, capsys: pytest.CaptureFixture[str]) -> None:
    connect(fake.url, progress=True).gain("relu")
    assert capsys.readouterr().err == ""


# Other transports ----------------------------------------------------------------------------------------------------


def test_a_transport_without_a_network_works_as_well(connect: Connect, fake: "Server") -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        file = fake.file_of(request.url.params)
        return httpx.Response(200, content=file, headers={"ETag": fake.etag_of(file)})

    tensor = connect("http://weights.test", transport=httpx.MockTransport(answer)).init(SHAPE, "ones")
    assert bits(tensor) == fake.pattern(SIZE)


def test_a_body_longer_than_it_promised_is_refused(connect: Connect, fake: "Server") -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        file = fake.file_of(request.url.params)
        return httpx.Response(200, content=file + b"\0", headers={"Content-Length": str(len(file))})

    with pytest.raises(weightwell.UnexpectedResponse, match="longer"):
        connect("http://weights.test", transport=httpx.MockTransport(answer)).init(SHAPE, "ones")
