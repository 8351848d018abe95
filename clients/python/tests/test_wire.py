"""Answers that cannot be understood are no answers: also from a service that lies."""

from __future__ import annotations

import json
import random
import tarfile
from typing import Any

import pytest
from conftest import PACKAGE

from mayfly_verifier.wire import Malformed, parse_changes, parse_introspection

ID = "b56929f3-54f1-4dc2-9984-9bba615e26e6"
LIVE = {"active": True, "username": "alice", "jti": ID, "iat": 5, "exp": 9, "age_ms": 12, "networks": ["192.0.2.0/24"]}
CHANGES = {"cursor": "0a-1-0-2a.0b-1-0-3", "age_ms": 12, "reset": False, "tokens": [ID]}

AGES = ["-1", "1e3", "12.0", "NaN", "Infinity", "-Infinity", "null", "true", '"12"', "[12]", "{}", "9" * 30, "9" * 5000]


def encode(answer: Any) -> bytes:
    return json.dumps(answer).encode()


def test_answers_are_understood() -> None:
    answer = {**LIVE, "scope": "read write", "aud": "shop", "unknown": [1]}
    read = parse_introspection(encode(answer))
    assert read is not None and read.age == 12_000_000
    assert (read.token.id, read.token.scopes, read.token.audiences) == (ID, ("read", "write"), ("shop",))
    assert parse_introspection(b'{"active":false}') is None
    changes = parse_changes(encode({**CHANGES, "tokens": [ID.upper()]}))
    assert (changes.age, changes.reset, changes.tokens) == (12_000_000, False, (ID,))


@pytest.mark.parametrize("age", AGES)
@pytest.mark.parametrize(("answer", "parse"), [(LIVE, parse_introspection), (CHANGES, parse_changes)])
def test_an_age_that_is_no_whole_number_of_milliseconds_is_malformed(answer: Any, parse: Any, age: str) -> None:
    text = encode(answer).decode()
    assert '"age_ms": 12' in text
    for body in (text.replace('"age_ms": 12', f'"age_ms": {age}'), text.replace('"age_ms": 12', '"x": 1')):
        with pytest.raises(Malformed):
            parse(body.encode())


@pytest.mark.parametrize(
    "members",
    [
        {"cursor": None},
        {"cursor": ""},
        {"cursor": "a b"},
        {"cursor": "a&after=b"},
        {"cursor": "a\r\nX: y"},
        {"cursor": "a" * 4097},
        {"reset": 0},
        {"reset": "false"},
        {"tokens": None},
        {"tokens": ID},
        {"tokens": ["x"]},
        {"tokens": [ID + "\n"]},
        {"tokens": [ID[:-1] + "\u0660"]},
        {"tokens": [1]},
    ],
)
def test_malformed_changes(members: Any) -> None:
    with pytest.raises(Malformed):
        parse_changes(encode({**CHANGES, **members}))


@pytest.mark.parametrize(
    "members",
    [
        {"active": 1},
        {"active": "true"},
        {"active": None},
        {"jti": None},
        {"jti": "x"},
        {"username": 1},
        {"exp": None},
        {"exp": 9.5},
        {"exp": True},
        {"scope": ["read"]},
        {"aud": [1]},
        {"aud": {}},
        {"networks": ["all"]},
        {"networks": "10.0.0.0/8"},
    ],
)
def test_malformed_introspection(members: Any) -> None:
    with pytest.raises(Malformed):
        parse_introspection(encode({**LIVE, **members}))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b"\xff",
        b"{",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"active":true,"active":false}',
        b"9" * 10_000,
    ],
)
def test_garbage(body: bytes) -> None:
    for parse in (parse_introspection, parse_changes):
        with pytest.raises(Malformed):
            parse(body)


def test_mutated_answers_raise_nothing_else() -> None:
    chance = random.Random(1)
    for _ in range(20_000):
        answer, parse = chance.choice([(LIVE, parse_introspection), (CHANGES, parse_changes)])
        body = bytearray(encode(answer))
        for _ in range(chance.randint(1, 4)):
            place = chance.randrange(len(body))
            body[place : place + chance.randint(0, 3)] = bytes(
                chance.choices(b'{}[]",:-+.0123456789eEtrufalsn\\ \xc3\xa9', k=chance.randint(0, 3))
            )
            body = body or bytearray(b" ")
        try:
            parse(bytes(body))
        except Malformed:
            pass


def test_the_inputs_that_fuzzing_collected_raise_nothing_else() -> None:
    """The corpus is that of the parser in Rust: a line is an answer."""
    with tarfile.open(PACKAGE.parent.parent / "tests/fuzz/corpus/verifier.tar.gz") as archive:
        inputs = [archive.extractfile(member) for member in archive.getmembers() if member.isfile()]
        lines = [line for file in inputs if file is not None for line in file.read().split(b"\n")]
    assert len(lines) > 10
    for line in lines:
        for parse in (parse_introspection, parse_changes):
            try:
                parse(line)
            except Malformed:
                pass
