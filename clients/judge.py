"""Stand-in for a judge: an OpenAI-compatible endpoint that compares words.

    python3 judge.py [--port PORT] [--delay SECONDS]

It prints its URL and serves until it is ended. It answers the questions of Assay and of the metrics that RAGAS
has by default, each in the form that the question asks for, by the same rule; any other question it declines.
Under /slow/v1 the same judge takes 30 seconds. Needs nothing but Python.
"""

import argparse
import json
import re
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SLOW_SECONDS = 30
# The share of a claim's words that a sentence must hold to support it.
ENOUGH = 0.75

STOP_WORDS = set("a an and are as at by for from has have in is it its of on or that the to was were with".split())
STOP_WORDS.update("的了是在和与有于为")
WORD = re.compile(r"[a-z0-9]+(?:[.,]\d+)*|[\u4e00-\u9fff]")
SENTENCE = re.compile(r"[^.!?。！？\s](?:[^.!?。！？]|[.](?=\S))*[.!?。！？]?")
REFUSAL = re.compile(r"(don't|do not|cannot|can't) (know|say|answer)|不知道|不清楚|无法回答|没有提到")
CHINESE = re.compile(r"[\u4e00-\u9fff]")


# The rule


def words(text):
    return {word for word in WORD.findall(text.lower()) if word not in STOP_WORDS}


def share(text, source):
    """Share of the words of the text that the source contains; 0 if the source lacks a number of the text."""
    wanted, there = words(text), words(source)
    if not wanted or any(word[0].isdigit() for word in wanted - there):
        return 0
    return len(wanted & there) / len(wanted)


def quote(claim, source):
    """The sentence that supports the claim; None if there is none."""
    return next((sentence for sentence in SENTENCE.findall(source) if share(claim, sentence) >= ENOUGH), None)


def claims(text):
    return [sentence for sentence in SENTENCE.findall(text) if words(sentence) and not REFUSAL.search(sentence.lower())]


def useful(answer, context):
    return any(quote(claim, context) for claim in claims(answer))


def question(response):
    noncommittal = not claims(response)
    first = SENTENCE.findall(response)[0].rstrip(".!?。！？")
    return (f"{first}，是吗？" if CHINESE.search(first) else f"Is it true that {first}?"), noncommittal


def reason(verdict, about):
    if CHINESE.search(about):
        return "用词相同。" if verdict else "找不到相同的用词。"
    return "The words are the same." if verdict else "Its words are not there."


def rated(text, source, scale):
    """The highest value of the scale if all words are present, the lowest if few are."""
    part = share(text, source)
    return scale[2 if part >= ENOUGH else 1 if part >= ENOUGH / 2 else 0]


# Assay's questions: data blocks in, an object of the schema out.


def verification(data):
    verdicts = []
    for claim in data["claims"]:
        found = {source["id"]: quote(claim["text"], source["text"]) for source in data["sources"]}
        found = {id: sentence for id, sentence in found.items() if sentence}
        verdict = {"id": claim["id"], "reason": reason(found, claim["text"]), "quote": next(iter(found.values()), "")}
        verdicts.append({**verdict, "sources": list(found), "supported": bool(found)})
    return {"verdicts": verdicts}


def usefulness(data):
    verdicts = []
    for context in data["contexts"]:
        verdict = useful(data["answer"], context["text"])
        verdicts.append({"id": context["id"], "reason": reason(verdict, data["answer"]), "useful": verdict})
    return {"verdicts": verdicts}


def asked(data):
    text, noncommittal = question(data["response"])
    return {"question": text, "noncommittal": noncommittal}


def accuracy(data):
    return {"reason": "Shared words.", "rating": rated(data["reference"], data["response"], (0, 2, 4))}


def relevance(data):
    contexts = " ".join(context["text"] for context in data["contexts"])
    return {"reason": "Shared words.", "rating": rated(data.get("response") or data["question"], contexts, (0, 1, 2))}


def refusal(data):
    verdict = not claims(data["response"])
    return {"reason": "Nothing is said." if verdict else "Something is said.", "refusal": verdict}


ASSAY = {
    "claims": lambda data: {"claims": claims(data["text"])},
    "verification": verification,
    "usefulness": usefulness,
    "question": asked,
    "accuracy": accuracy,
    "relevance": relevance,
    "refusal": refusal,
}
BLOCK = re.compile(r'^<data name="(\w+)" id="(\w+)">\n(.*)\n</data id="\2">$', re.MULTILINE)


def of_assay(body):
    name = body["response_format"]["json_schema"]["name"]
    data = {name: json.loads(value) for name, _, value in BLOCK.findall(body["messages"][1]["content"])}
    return ASSAY[name](data) if name in ASSAY else None


# RAGAS's questions: one message with a schema, examples, and the input at its end.


def nli(given):
    verdicts = [(claim, quote(claim, given["context"])) for claim in given["statements"]]
    return {"statements": [{"statement": c, "reason": reason(v, c), "verdict": int(bool(v))} for c, v in verdicts]}


def attribution(given):
    verdicts = [(claim, quote(claim, given["context"])) for claim in claims(given["answer"])]
    made = [{"statement": c, "reason": reason(v, c), "attributed": int(bool(v))} for c, v in verdicts]
    return {"classifications": made}


def verified(given):
    verdict = useful(given["answer"], given["context"])
    return {"reason": reason(verdict, given["answer"]), "verdict": int(verdict)}


def relevant(given):
    text, noncommittal = question(given["response"])
    return {"question": text, "noncommittal": int(noncommittal)}


RAGAS = {
    "StatementGeneratorOutput": lambda given: {"statements": claims(given["answer"])},
    "NLIStatementOutput": nli,
    "ContextRecallClassifications": attribution,
    "Verification": verified,
    "ResponseRelevanceOutput": relevant,
}
SCHEMA = "following schema as specified in JSON Schema:\n"
INPUT = "Now perform the same with the following input\ninput: "


def of_ragas(body):
    prompt = body["messages"][-1]["content"]
    if SCHEMA not in prompt:
        return None
    decode = json.JSONDecoder().raw_decode
    schema, _ = decode(prompt.split(SCHEMA, 1)[1])
    given, _ = decode(prompt.rsplit(INPUT, 1)[1])
    return RAGAS[schema["title"]](given) if schema["title"] in RAGAS else None


# Chat completions


def completion(body):
    answer = (of_assay if "response_format" in body else of_ragas)(body)
    message = {"role": "assistant", "content": json.dumps(answer, ensure_ascii=False), "refusal": None}
    if answer is None:
        message.update(content=None, refusal="A question that compares more than words.")
    count = body.get("n") or 1
    # Four characters or so make a token.
    prompt, said = (len(json.dumps(part, ensure_ascii=False)) // 4 for part in (body["messages"], message))
    return {
        "id": "stand-in",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": body["model"],
        "choices": [{"index": index, "message": message, "finish_reason": "stop"} for index in range(count)],
        "usage": {"prompt_tokens": prompt, "completion_tokens": count * said, "total_tokens": prompt + count * said},
    }


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Head and body leave in two writes; without it the second waits for the client's acknowledgement.
    disable_nagle_algorithm = True
    delay = 0.0

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if not self.path.endswith("/v1/chat/completions"):
            return self.answer(404, {"error": {"message": f"no {self.path} here", "type": "not_found"}})
        time.sleep(SLOW_SECONDS if self.path.startswith("/slow/") else self.delay)
        return self.answer(200, completion(body))

    def answer(self, status, body):
        body = json.dumps(body, ensure_ascii=False).encode()
        try:
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        except ConnectionError:
            pass  # The caller gave up waiting.

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=0, help="0 picks one")
    parser.add_argument("--delay", type=float, default=0, help="seconds that an answer takes")
    arguments = parser.parse_args()
    Handler.delay = arguments.delay
    with Server(("127.0.0.1", arguments.port), Handler) as server:
        print(f"http://127.0.0.1:{server.server_port}/v1", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            pass


if __name__ == "__main__":
    main()
