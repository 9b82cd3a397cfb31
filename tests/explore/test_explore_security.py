"""Who the explorer answers: the holder of its address, under its own name, from its own pages, and nobody else."""

import http.client
import json
import time
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import pytest
from opened_world import NAMES, Server, World, make_world, serving

from saelab.cli import main
from saelab.explore.server import answers_to, bound, is_local, reached_at

Headers = dict[str, str]


def ask(
    server: Server, path: str, *, method: str = "GET", data: object = None, raw: str | None = None, **headers: str
) -> tuple[int, Headers, bytes]:
    """One request with the cookie of a visitor, unless another is given; of headers, _ is -."""
    asked = {"Host": f"127.0.0.1:{server.port}", "Cookie": f"saelab-{server.port}={server.token}"}
    asked |= {name.replace("_", "-"): value for name, value in headers.items()}
    body = raw if data is None else json.dumps(data)
    if body is not None:
        asked = {"Content-Type": "application/json"} | asked
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)) as connection:
        connection.request(method, path, body, {k: v for k, v in asked.items() if v})
        answer = connection.getresponse()
        return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()


def test_a_visitor_is_answered_and_the_token_leaves_the_address(server: Server) -> None:
    status, headers, _ = ask(server, f"/sae/plain/3?token={server.token}&x=1", Cookie="")
    assert (status, headers["location"]) == (303, "/sae/plain/3?x=1")
    kept = headers["set-cookie"].lower()
    assert "httponly" in kept and "samesite=strict" in kept and server.token.lower() in kept
    status, headers, body = ask(server, "/sae/plain/3")
    assert status == 200 and b"feature 3" in body and server.token.encode() not in body
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy
    assert b"style=" not in body and b" onclick" not in body


def test_an_address_of_two_slashes_stays_on_this_server(server: Server) -> None:
    status, headers, _ = ask(server, f"//elsewhere.example/?token={server.token}", Cookie="")
    assert (status, headers["location"]) == (303, "/elsewhere.example/")


REFUSED = {
    "no cookie": (403, {"Cookie": ""}),
    "a wrong cookie": (403, {"Cookie": "saelab-{port}=guess"}),
    "another name (DNS rebinding)": (421, {"Host": "attacker.example:{port}"}),
    "an address of another machine": (421, {"Host": "192.0.2.1:{port}"}),
    "no name": (421, {"Host": "x"}),
    "another origin": (403, {"Origin": "http://attacker.example"}),
    "another server of this machine": (403, {"Origin": "http://127.0.0.1:1"}),
    "no origin's page": (403, {"Origin": "null"}),
    "another site's image": (403, {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "no-cors"}),
    "another site's frame": (
        403,
        {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "iframe"},
    ),
}


@pytest.mark.parametrize("path", ["/", "/api/state", "/static/explore.js"])
@pytest.mark.parametrize("case", REFUSED)
def test_others_are_refused(server: Server, case: str, path: str) -> None:
    status, headers = REFUSED[case]
    headers = {k: v.format(port=server.port) for k, v in headers.items()}
    found, _, body = ask(server, path, **headers)
    assert found == status
    assert b"plain" not in body and server.token.encode() not in body


def test_a_form_of_another_site_changes_nothing_and_own_requests_pass(server: Server) -> None:
    data = {"sae": "plain", "feature": 2}
    assert ask(server, "/api/describe", method="POST", data=data)[0] == 200
    own = f"http://127.0.0.1:{server.port}"
    assert ask(server, "/api/describe", method="POST", data=data, Origin=own, Sec_Fetch_Site="same-origin")[0] == 200
    assert ask(server, "/api/describe", method="POST", data=data, Origin="http://attacker.example")[0] == 403
    # What a form can send without asking first: text.
    assert ask(server, "/api/describe", method="POST", data=data, Content_Type="text/plain")[0] == 415
    assert ask(server, "/api/describe", method="POST", data={"x": "y" * (1 << 20)})[0] == 413
    assert ask(server, "/api/describe", method="DELETE")[0] == 405


@pytest.mark.parametrize(
    ("path", "said"),
    [("/sae/plain/64", "There is no feature 64"), ("/sae/other/1", "No SAE other"), ("/nothing", "no such page"),
     ("/static/../app.py", "no such page"), ("/steer?f=plain:x:1", "no SAE, feature and share")],
)  # fmt: skip
def test_what_is_not_there_is_a_sentence(server: Server, path: str, said: str) -> None:
    status, _, body = ask(server, path)
    assert status == 404 and said in body.decode() and "Traceback" not in body.decode()


@pytest.mark.parametrize(
    ("path", "status"),
    [("/compare?from=5000", 200), (f"/compare?from={'9' * 27}", 200), ("/compare?from=²&name=x&self=y", 200),
     ("/api/features?offset=²", 200), ("/api/features?density.is=x", 400), ("/api/features?density.low=nan", 200),
     ("/path/plain/64", 404), (f"/path/plain/{'9' * 27}", 404), ("/steer?f=plain:1:nan", 404),
     ("/steer?f=plain:1:1e9", 404), ("/steer?f=plain:64:1", 404), ("/steer?f=plain:1:0.5", 200)],
)  # fmt: skip
def test_no_address_is_a_fault_of_the_server(server: Server, path: str, status: int) -> None:
    found, _, body = ask(server, quote(path, safe="/?=&:"))
    assert found == status and b"Internal Server Error" not in body and b"NaN" not in body


@pytest.mark.parametrize("text", [r'"\ud800"', "[" * 50_000 + "]" * 50_000, "1" * 5000, "NaN", "{"])
def test_no_data_is_a_fault_of_the_server(server: Server, text: str) -> None:
    for kind in ("text", "describe", "steer", "recipe", "directions"):
        status, _, body = ask(server, f"/api/{kind}", method="POST", raw=text)
        assert status == 400 and json.loads(body)["error"]


def test_half_a_character_is_no_prompt_and_a_whole_one_is(server: Server) -> None:
    turn = {"sae": "plain", "feature": 1, "share": 0.2}
    for prompt, status in ((r"a \ud800", 400), (r"a \ud83d\ude00", 200)):
        text = json.dumps({"prompt": "X", "features": [turn], "scales": [1], "tokens": 1}).replace("X", prompt)
        while b"ready" not in ask(server, "/api/state")[2]:
            time.sleep(0.2)
        found, _, body = ask(server, "/api/steer", method="POST", raw=text)
        assert found == status and (b'"end"' in body) == (status == 200)


def test_names_and_texts_are_never_markup(server: Server) -> None:
    for path in ("/", f"/sae/{quote(NAMES[1], safe='')}/0", "/text", "/steer", "/compare"):
        status, _, body = ask(server, path)
        page = body.decode()
        assert (
            status == 200
            and "<svg onload" not in page
            and "<img src" not in page
            and "window.ran=1</script>" not in page
        )
    assert "&lt;svg onload" in page  # control: the name is on the page


def test_ctrl_c_ends_it_cleanly_and_a_taken_port_is_a_sentence(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(world) as one:
        assert main(["explore", *world.refs, "--no-browser", "--port", str(one.port)]) == 2
        taken = capsys.readouterr().err
        assert "Nothing can be served at" in taken and "--port 0" in taken and "Traceback" not in taken
        while b"ready" not in ask(one, "/api/state")[2]:
            time.sleep(0.2)
        turn = {"sae": "plain", "feature": 1, "share": 0.2}
        data = {"prompt": "the cat", "features": [turn], "scales": [1] * 7, "tokens": 256}
        with closing(http.client.HTTPConnection("127.0.0.1", one.port, timeout=20)) as connection:  # in mid-sentence
            headers = {"Content-Type": "application/json", "Cookie": f"saelab-{one.port}={one.token}"}
            connection.request("POST", "/api/steer", json.dumps(data), headers)
            answer = connection.getresponse()
            assert answer.readline()
            code, said = one.end()
            answer.close()
    assert (code, said) == (0, "")


def test_ctrl_c_while_a_text_is_read_and_material_is_made_ends_it_cleanly(tmp_path: Path) -> None:
    with serving(make_world(tmp_path)) as one:
        while b"ready" not in ask(one, "/api/state")[2]:
            time.sleep(0.2)
        assert b'data-making="1"' in ask(one, "/sae/plain/1")[2]
        with closing(http.client.HTTPConnection("127.0.0.1", one.port, timeout=20)) as connection:
            headers = {"Content-Type": "application/json", "Cookie": f"saelab-{one.port}={one.token}"}
            connection.request("POST", "/api/text", json.dumps({"sae": "plain", "text": "the cat " * 90}), headers)
            ended = one.end()
    assert ended == (0, "")


def test_names_of_the_server() -> None:
    here, lab, everywhere = (answers_to(host, 5) for host in ("127.0.0.1", "lab.example", "0.0.0.0"))
    assert all(
        here(asked) for asked in ("127.0.0.1:5", "localhost:5", "[::1]:5", "localhost:9999", "localhost")
    )  # a tunnel
    assert not any(here(asked) for asked in ("lab.example:5", "192.0.2.7:5", "localhost.example:5", "localhost:x", ""))
    assert lab("lab.example:5") and not lab("lab.example:6") and not lab("localhost:5") and not lab("192.0.2.7:5")
    assert everywhere("192.0.2.7:5") and everywhere("[2001:db8::1]:5") and everywhere("localhost:5")
    assert not everywhere("attacker.example:5")  # control: names are what can be turned on another machine
    assert reached_at("0.0.0.0") != "0.0.0.0" and reached_at("::1") == "[::1]"
    assert is_local("localhost") and is_local("127.0.0.9") and is_local("::1")
    assert not is_local("0.0.0.0") and not is_local("lab.example") and not is_local("192.168.0.2")
    with bound("127.0.0.1", 0) as socket:
        assert socket.getsockname()[1] > 0


def test_a_writing_ends_when_nobody_reads_on(server: Server) -> None:
    data = {
        "prompt": "the cat",
        "features": [{"sae": "plain", "feature": 1, "share": 0.2}],
        "scales": [1],
        "tokens": 256,
    }
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    headers = {"Content-Type": "application/json", "Cookie": f"saelab-{server.port}={server.token}"}
    connection.request("POST", "/api/steer", json.dumps(data), headers)
    connection.getresponse().readline()
    connection.close()
    began = time.monotonic()
    status, _, body = ask(server, "/api/text", method="POST", data={"sae": "plain", "text": "the cat"})
    assert status == 200 and json.loads(body)["features"] and time.monotonic() - began < 5
