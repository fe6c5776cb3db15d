from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np

from app.engine.ray.wire import WireRequest
from app.errors import Overloaded
from tests.engines import request


def test_a_request_arrives_as_it_was_sent_with_its_deadline_on_the_replicas_clock() -> None:
    sent = request(0.25, client="key 1", request_id="abc#7", deadline=130.0, due=110.0, weight=1.0)
    there = pickle.loads(pickle.dumps(WireRequest.of(sent, "front", now=100.0)))
    received = there.request(now=5000.0)
    assert received.context.deadline == 5030.0
    assert received.context.due == 5010.0
    assert (received.model, received.signature, received.pixels) == (sent.model, sent.signature, sent.pixels)
    assert not received.context.exact
    assert (received.context.client, received.context.weight) == ("key 1", 1.0)
    assert received.context.request_id == "front/abc#7", "two senders may use the same id"
    np.testing.assert_array_equal(received.inputs["image"], sent.inputs["image"])


def test_a_picture_of_16_bits_is_exact_there_too() -> None:
    sent = request()
    sent = replace(sent, context=replace(sent.context, exact=True))
    assert WireRequest.of(sent, "front", now=0.0).request(now=0.0).context.exact


def test_errors_keep_their_fields_when_pickled() -> None:
    refusal = Overloaded("The device has too little memory.", field="image", value=3, limit=2, retry_after=1.5)
    there = pickle.loads(pickle.dumps(refusal))
    assert type(there) is Overloaded
    assert (there.detail, there.field, there.value, there.limit, there.retry_after) == (
        "The device has too little memory.",
        "image",
        3,
        2,
        1.5,
    )
