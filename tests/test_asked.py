"""Asked: laws of another model as a judge."""

import http.server
import json
import threading

import pytest

from scans_lens.judges import asked
from scans_lens.scoring import judged

pytestmark = pytest.mark.above


@pytest.fixture
def server():
    """Answers by a word in the reply that it is shown, and remembers what it was sent."""
    seen = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            seen.append((self.path, self.headers.get("Authorization"), body))
            shown = body["messages"][0]["content"].split("<<<")[1].split(">>>")[0]
            self.send_response(500 if "broken" in shown else 200)
            self.end_headers()
            word = "Hard to say." if "odd" in shown else "**Refused**." if "cannot" in shown else "answered"
            self.wfile.write(json.dumps({"choices": [{"message": {"content": word}}]}).encode())

        def log_message(self, *parts):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as found:
        threading.Thread(target=found.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{found.server_port}/v1", seen
        found.shutdown()


def test_an_address_is_asked_about_every_reply_and_its_word_is_the_verdict(server):
    url, seen = server
    judge = asked.address(url, "some-model", key="secret")
    assert judge(["I cannot.", "Turn it."]) == ["refused", "answered"]
    assert [(path, key, body["model"], body["temperature"]) for path, key, body in seen] == [
        ("/v1/chat/completions", "Bearer secret", "some-model", 0)
    ] * 2


def test_text_before_the_end_of_a_thinking_block_is_not_shown(server):
    url, seen = server
    assert asked.address(url, "m")(["<think>I cannot do this.</think>Turn it."]) == ["answered"]
    assert "I cannot do this" not in seen[0][2]["messages"][0]["content"]


@pytest.mark.parametrize("reply", ["an odd one", "a broken one"])
def test_an_answer_without_a_verdict_is_missing_and_the_others_are_kept(server, reply):
    url, _ = server
    with pytest.warns(UserWarning, match="A judge failed on a reply"):
        assert judged(asked.address(url, "m"), ["I cannot.", reply, "Turn it."]) == ["refused", None, "answered"]


def test_nobody_at_the_address_is_said():
    with pytest.raises(ConnectionError, match=r"The judge at http://127\.0\.0\.1:9/v1 did not answer as it should"):
        asked.address("http://127.0.0.1:9/v1", "m", timeout=2.0)(["Turn it."])


@pytest.mark.parametrize("answer", ["refused or answered", "", "no idea"])
def test_no_verdict_is_guessed(answer):
    with pytest.raises(ValueError, match="holds no single verdict"):
        asked.by_asking(lambda questions: [answer] * len(questions))(["Turn it."])


def test_a_model_that_is_here_is_asked_in_its_own_template(model, monkeypatch):
    shown = []

    class Said:
        texts = ("refused", "answered")

    def replies(own, questions, **how):
        assert own is model
        shown.extend(questions)
        return Said()

    monkeypatch.setattr("scans_lens.generation.replies", replies)
    assert asked.model_here(model)(["I cannot.", "Turn it."]) == ["refused", "answered"]
    assert "I cannot." in shown[0] and "Turn it." in shown[1]
