"""The rows of bulk_drill.py, and what must become of them."""

def name(n):
    return f"row-{n:06}"


def number(id):
    return int(id.removeprefix("row-"))


WORDS = "harbour bridge opened spring river stone market winter lantern copper valley orchard signal meadow".split()


def sentence(n):
    return " ".join(WORDS[(n // len(WORDS) ** place + place) % len(WORDS)] for place in range(4))


def is_empty(n):
    return n % 500 == 17


def is_too_long(n):
    return n % 500 == 29


def text_row(n):
    text = f"Note {n}: the {sentence(n)} was seen by {7 * n % 1000} people."
    return {"id": name(n), "text": "" if is_empty(n) else f"{text} " * 40 if is_too_long(n) else text}


def sample_row(n):
    """Of the response's four words, those of the reference are as many as `n % 4` says, less one."""
    words = sentence(n).split()
    response = " ".join(words[: n % 4 + 1])
    return {
        "id": name(n),
        "user_input": "What was seen?",
        "response": "" if is_empty(n) else "stone " * 30000 if is_too_long(n) else response,
        "reference": " ".join(words),
        "retrieved_contexts": [" ".join(words)],
    }


def f1(n):
    """Precision is 1, recall what was kept of four words."""
    recall = (n % 4 + 1) / 4
    return 2 * recall / (1 + recall)


def check_statuses(statuses):
    for id, status in statuses.items():
        poison = is_empty(number(id)) or is_too_long(number(id))
        assert status == ("INVALID_ARGUMENT" if poison else "OK"), (id, status)
