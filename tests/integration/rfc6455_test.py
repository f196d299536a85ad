"""RFC 6455 as a server shows it on the wire, byte for byte. Each row of a table is one rule of the section that is named.

An edge is no echo, but `{"type":"ping","id":X}` is answered by a pong with the same X: so a test sees that a message came
through as it was sent.
"""

import contextlib
import json
import struct

import pytest

from harness import Cluster
from ws_client import BINARY, CLOSE, PING, PONG, TEXT, V1, Raw, close_payload, frame

CONTINUATION = 0
MESSAGE_MAX = 65_536


@pytest.fixture(scope="module")
def edge(tmp_path_factory):
    """A broker and an edge that nothing is published to: what comes is an answer, or a heartbeat."""
    with Cluster(tmp_path_factory.mktemp("rfc6455")) as cluster:
        yield cluster.edge


@pytest.fixture
def client(edge):
    with Raw(edge.port) as raw:
        assert raw.status == 101
        raw.message("hello")
        yield raw


def ping(identifier="x"):
    return json.dumps({"type": "ping", "id": identifier}, ensure_ascii=False).encode()


def echoed(client, identifier):
    """The answer to a ping() came, and nothing else but text before it."""
    assert client.message("pong")["id"] == identifier


def closed_with(client):
    """The code of the close frame, after which nothing came, but the end."""
    payload = client.expect(CLOSE).payload
    with contextlib.suppress(OSError):
        client.send(frame(CLOSE, payload[:2]))  # Where the server waits for it.
    assert client.rest() == []
    return struct.unpack("!H", payload[:2])[0] if payload else None


# --- 4.1, 4.2 and 11.3: the handshake -----------------------------------------------------------------------------------

ACCEPTED = {
    "as in section 1.3": {},
    "Upgrade in any case": {"Upgrade": "WebSocket"},
    "Upgrade among others": {"Upgrade": "h2c, websocket"},
    "Upgrade on two lines": {"Upgrade": ["h2c", "websocket"]},
    "Connection in any case": {"Connection": "uPGRADE"},
    "Connection among others": {"Connection": "keep-alive, Upgrade"},
    "Connection on two lines": {"Connection": ["keep-alive", "Upgrade"]},
    "white space around values": {"Upgrade": "  websocket \t", "Sec_WebSocket_Version": " 13 ",
                                  "Sec_WebSocket_Key": f"  {Raw.KEY}  "},
    "empty elements in a list": {"Connection": ",, Upgrade ,"},
    "an unknown extension": {"Sec_WebSocket_Extensions": "foo; bar=1"},
    "an unknown extension beside another": {"Sec_WebSocket_Extensions": "foo; bar=1, permessage-deflate; client_max_window_bits"},
    "extensions on two lines": {"Sec_WebSocket_Extensions": ["foo", "bar; baz=\"q\""]},
    "an unknown header": {"X_Unknown": "y"},
}


@pytest.mark.parametrize("case", ACCEPTED)
def test_a_good_handshake_is_accepted_with_the_key_it_asked_for(edge, case):
    with Raw(edge.port, Raw.lines(**ACCEPTED[case])) as raw:
        assert raw.status == 101
        assert raw.header("sec-websocket-accept") == [Raw.ACCEPT]
        assert [value.lower() for value in raw.header("upgrade")] == ["websocket"]
        assert [value.lower() for value in raw.header("connection")] == ["upgrade"]
        offered = str(ACCEPTED[case].get("Sec_WebSocket_Extensions"))
        agreed = [value.split(";")[0] for value in raw.header("sec-websocket-extensions")]
        assert agreed == (["permessage-deflate"] if "permessage-deflate" in offered else []), "what is used, and no other (9.1)"
        assert raw.header("sec-websocket-protocol") == [V1]
        raw.message("hello")
        raw.send(frame(TEXT, ping()))
        echoed(raw, "x")


REFUSED = {
    "no Upgrade": ({"Upgrade": None}, 426),
    "another Upgrade": ({"Upgrade": "h2c"}, 426),
    "a longer word": ({"Upgrade": "websocketx"}, 426),
    "no Connection": ({"Connection": None}, 426),
    "another Connection": ({"Connection": "keep-alive"}, 426),
    "no key": ({"Sec_WebSocket_Key": None}, 426),
    "an empty key": ({"Sec_WebSocket_Key": ""}, 426),
    "a key that is too short": ({"Sec_WebSocket_Key": "dGhlIHNhbXBsZQ=="}, 400),
    "a key that is no base64": ({"Sec_WebSocket_Key": "dGhl*HNhbXBsZSBub25jZQ=="}, 400),
    "two keys": ({"Sec_WebSocket_Key": [Raw.KEY, Raw.KEY]}, 400),
    "no version": ({"Sec_WebSocket_Version": None}, 426),
    "version 8": ({"Sec_WebSocket_Version": "8"}, 426),
    "version 14": ({"Sec_WebSocket_Version": "14"}, 426),
    "a list of versions": ({"Sec_WebSocket_Version": "13, 8"}, 426),
    "two versions": ({"Sec_WebSocket_Version": ["13", "8"]}, 400),
    "extensions that are no list": ({"Sec_WebSocket_Extensions": "foo;"}, 400),
    "protocols that are no list": ({"Sec_WebSocket_Protocol": "a b"}, 400),
    "a protocol that is named twice": ({"Sec_WebSocket_Protocol": f"{V1}, {V1}"}, 400),
    "no Host": ({"Host": None}, 400),
    "two Hosts": ({"Host": ["127.0.0.1", "localhost"]}, 400),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_bad_handshake_is_refused_before_the_upgrade(edge, case):
    lines, status = REFUSED[case]
    with Raw(edge.port, Raw.lines(**lines)) as raw:
        assert raw.status == status
        assert raw.header("sec-websocket-accept") == []
        if status == 426:
            assert raw.header("sec-websocket-version") == ["13"], "4.4: the version that is understood"


@pytest.mark.parametrize("first, status", [("POST /ws HTTP/1.1", 405), ("PUT /ws HTTP/1.1", 405),
                                           ("GET /ws HTTP/1.0", 400), ("GET /elsewhere HTTP/1.1", 404)])
def test_the_request_line_is_a_get_of_http_1_1_for_the_resource(edge, first, status):
    with Raw(edge.port, first=first) as raw:
        assert raw.status == status
        assert raw.header("sec-websocket-accept") == []


@pytest.mark.parametrize("offered, chosen", [
    (None, []), (V1, [V1]), (f"other, {V1}", [V1]), (["other", V1], [V1]), ("other", []),
    (V1.upper(), []),  # 11.5 compares names as they are.
])
def test_a_subprotocol_is_one_of_those_offered_or_none(edge, offered, chosen):
    with Raw(edge.port, Raw.lines(offered)) as raw:
        assert raw.status == 101
        assert raw.header("sec-websocket-protocol") == chosen


def test_what_is_sent_together_with_the_handshake_is_not_lost(edge):
    with Raw(edge.port, early=frame(TEXT, ping("early"))) as raw:
        assert raw.status == 101
        echoed(raw, "early")


# --- 5.2 to 5.4: frames, masking, fragmentation -------------------------------------------------------------------------

TOP_BIT = 1 << 63

FAILED = {
    # 5.1: a client masks every frame.
    "unmasked text": (frame(TEXT, ping(), masked=False), 1002),
    "unmasked binary": (frame(BINARY, ping(), masked=False), 1002),
    "an unmasked ping": (frame(PING, masked=False), 1002),
    "an unmasked pong": (frame(PONG, masked=False), 1002),
    "an unmasked close": (frame(CLOSE, close_payload(1000), masked=False), 1002),
    "an unmasked continuation": (frame(TEXT, b"{", final=False) + frame(CONTINUATION, b"}", masked=False), 1002),
    # 5.2: reserved bits without an extension.
    **{f"reserved bits {bits:03b} on {name}": (frame(opcode, payload, reserved=bits), 1002)
       for bits in range(1, 8) for name, opcode, payload in [("text", TEXT, ping()), ("a ping", PING, b"")]},
    "a reserved bit on binary": (frame(BINARY, ping(), reserved=4), 1002),
    "a reserved bit on a pong": (frame(PONG, reserved=2), 1002),
    "a reserved bit on a close": (frame(CLOSE, close_payload(1000), reserved=1), 1002),
    "a reserved bit on a continuation": (frame(TEXT, b"{", final=False) + frame(CONTINUATION, b"}", reserved=4), 1002),
    # 5.2: opcodes that nobody has defined.
    **{f"opcode {opcode:#x}": (frame(opcode, b""), 1002) for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)},
    "opcode 0x3 with a payload": (frame(3, b"payload"), 1002),
    "opcode 0xb within a fragmented message": (frame(TEXT, b"{", final=False) + frame(11), 1002),
    # 5.2: lengths in the fewest bytes; the first bit of 64 is 0.
    "5 in 16 bits": (frame(TEXT, b"hello", form=16), 1002),
    "125 in 16 bits": (frame(TEXT, b"x" * 125, form=16), 1002),
    "5 in 64 bits": (frame(TEXT, b"hello", form=64), 1002),
    "65,535 in 64 bits": (frame(BINARY, b"x" * 65_535, form=64), 1002),
    "a length of 2^63": (frame(BINARY, b"", length=TOP_BIT, form=64), 1009),
    "a length of 2^64 - 1": (frame(TEXT, b"", length=2 * TOP_BIT - 1, form=64), 1009),
    # 5.5: control frames are short and whole.
    **{f"{name} of 126 bytes": (frame(opcode, b"\x03\xe8" + b"x" * 124), 1002)
       for name, opcode in [("a ping", PING), ("a pong", PONG), ("a close", CLOSE)]},
    **{f"a fragmented {name}": (frame(opcode, b"\x03\xe8", final=False), 1002)
       for name, opcode in [("ping", PING), ("pong", PONG), ("close", CLOSE)]},
    "a short ping in 16 bits": (frame(PING, b"x", form=16), 1002),
    "a ping of 64 bits": (frame(PING, b"", length=TOP_BIT, form=64), 1002),
    # 5.4: what may follow what.
    "a continuation of nothing": (frame(CONTINUATION, ping()), 1002),
    "a fragment that continues nothing": (frame(CONTINUATION, ping(), final=False), 1002),
    "a continuation after a whole message": (frame(BINARY, ping()) + frame(CONTINUATION, b""), 1002),
    "a continuation after the last one": (frame(TEXT, b"{", final=False) + frame(CONTINUATION, b"}")
                                          + frame(CONTINUATION, b""), 1002),
    "text within a fragmented message": (frame(TEXT, b"{", final=False) + frame(TEXT, ping()), 1002),
    "binary within a fragmented message": (frame(TEXT, b"{", final=False) + frame(BINARY, b"}"), 1002),
    "a new fragment within a fragmented message": (frame(BINARY, b"{", final=False)
                                                   + frame(BINARY, b"}", final=False), 1002),
    # 7.4.1: too large to be processed, told before it has come.
    "a message of one byte too much": (frame(TEXT, b" " * (MESSAGE_MAX + 1)), 1009),
    "the head of one that never comes": (frame(TEXT, b"", length=MESSAGE_MAX + 1, form=64), 1009),
    "fragments that are too large together": (frame(TEXT, b" " * MESSAGE_MAX, final=False)
                                              + frame(CONTINUATION, b" "), 1009),
}


@pytest.mark.parametrize("case", FAILED)
def test_what_the_protocol_forbids_fails_the_connection_with_its_code(client, case):
    sent, code = FAILED[case]
    client.send(sent)
    assert closed_with(client) == code


TEXT_OF = ping("\u00e4\u20ac\U0001f600")  # 2, 3 and 4 bytes a character.
PASSED = {
    "one frame": [frame(TEXT, TEXT_OF)],
    "one binary frame": [frame(BINARY, TEXT_OF)],
    "two fragments": [frame(TEXT, TEXT_OF[:9], final=False), frame(CONTINUATION, TEXT_OF[9:])],
    "a fragment a byte": [frame(TEXT, TEXT_OF[:1], final=False),
                          *(frame(CONTINUATION, TEXT_OF[i:i + 1], final=False) for i in range(1, len(TEXT_OF) - 1)),
                          frame(CONTINUATION, TEXT_OF[-1:])],
    "fragments that are empty": [frame(TEXT, b"", final=False), frame(CONTINUATION, b"", final=False),
                                 frame(CONTINUATION, TEXT_OF, final=False), frame(CONTINUATION, b"")],
    "binary fragments": [frame(BINARY, TEXT_OF[:5], final=False), frame(CONTINUATION, TEXT_OF[5:])],
    "a mask of zeroes": [frame(TEXT, TEXT_OF, mask=bytes(4))],
    "a mask of ones": [frame(TEXT, TEXT_OF, mask=b"\xff" * 4)],
    "126 bytes, in 16 bits": [frame(TEXT, TEXT_OF.ljust(126))],
    "65,535 bytes, in 16 bits": [frame(TEXT, TEXT_OF.ljust(65_535))],
    "65,536 bytes, in 64 bits": [frame(TEXT, TEXT_OF.ljust(MESSAGE_MAX))],
}


@pytest.mark.parametrize("case", PASSED)
def test_a_message_comes_through_however_it_is_framed(client, case):
    client.send(*PASSED[case])
    echoed(client, "\u00e4\u20ac\U0001f600")
    client.send(frame(TEXT, ping("after")))
    echoed(client, "after")


@pytest.mark.parametrize("case", ["one frame", "two fragments", "fragments that are empty", "126 bytes, in 16 bits"])
def test_frames_come_through_a_byte_at_a_time(client, case):
    for byte in b"".join(PASSED[case]):
        client.send(bytes([byte]))  # TCP_NODELAY: a segment each.
    echoed(client, "\u00e4\u20ac\U0001f600")


def test_many_frames_in_one_segment_are_answered_in_order(client):
    client.send(*(frame(TEXT, ping(number)) for number in range(80)))
    for number in range(80):
        echoed(client, number)


def test_an_empty_message_is_one(client):
    for opcode in (TEXT, BINARY):
        client.send(frame(opcode, b""))
        assert client.message("error")["data"]["name"] == "bad_request"


def test_a_server_masks_nothing_fragments_nothing_and_sets_no_reserved_bit(client):
    client.send(frame(PING, b"1"), frame(TEXT, ping()), frame(TEXT, b"{}"), frame(CLOSE, close_payload(1000)))
    came = client.rest()
    assert {one.opcode for one in came} == {TEXT, PONG, CLOSE}
    assert {(one.masked, one.final, one.reserved) for one in came} == {(False, True, 0)}


# --- 5.5: control frames ------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("payload", [b"", b"hello", bytes(range(125)), b"\xff\xfe\x80"], ids=len)
def test_a_ping_is_answered_with_its_own_payload(client, payload):
    client.send(frame(PING, payload))
    assert client.expect(PONG).payload == payload


def test_pings_are_answered_in_order_and_within_one_segment(client):
    client.send(*(frame(PING, str(number).encode()) for number in range(50)))
    assert [client.expect(PONG).payload for _ in range(50)] == [str(number).encode() for number in range(50)]


def test_a_ping_that_comes_a_byte_at_a_time_is_answered(client):
    for byte in frame(PING, b"slow"):
        client.send(bytes([byte]))
    assert client.expect(PONG).payload == b"slow"


def test_control_frames_between_fragments_are_answered_at_once(client):
    client.send(frame(TEXT, TEXT_OF[:9], final=False), frame(PING, b"between"))
    assert client.expect(PONG).payload == b"between", "before the message is whole"
    client.send(frame(CONTINUATION, TEXT_OF[9:14], final=False), frame(PONG, b"unasked"), frame(PING, b"again"))
    assert client.expect(PONG).payload == b"again"
    client.send(frame(CONTINUATION, TEXT_OF[14:]))
    echoed(client, "\u00e4\u20ac\U0001f600")


def test_a_close_between_fragments_is_answered_and_the_message_is_dropped(client):
    client.send(frame(TEXT, ping()[:5], final=False), frame(CLOSE, close_payload(1000)))
    assert closed_with(client) == 1000


def test_a_pong_that_nobody_asked_for_is_passed_over(client):
    client.send(frame(PONG), frame(PONG, b"unasked"), frame(TEXT, ping()))
    echoed(client, "x")


# --- 5.6 and 8.1: text is UTF-8 -----------------------------------------------------------------------------------------

BAD_TEXT = {
    "a continuation byte alone": b"\x80",
    "a lead byte alone": b"\xc3",
    "a lead byte and no continuation": b"\xc3(",
    "three bytes that are cut": b"\xe2\x82",
    "four bytes that are cut": b"\xf0\x9f\x98",
    "an overlong slash in 2": b"\xc0\xaf",
    "an overlong delete in 2": b"\xc1\xbf",
    "an overlong slash in 3": b"\xe0\x80\xaf",
    "the last overlong of 3": b"\xe0\x9f\xbf",
    "an overlong slash in 4": b"\xf0\x80\x80\xaf",
    "the last overlong of 4": b"\xf0\x8f\xbf\xbf",
    "an overlong zero": b"\xc0\x80",
    "the first surrogate": b"\xed\xa0\x80",
    "the last surrogate": b"\xed\xbf\xbf",
    "a surrogate pair": b"\xed\xa0\xbd\xed\xb8\x80",
    "U+110000": b"\xf4\x90\x80\x80",
    "a lead byte of U+140000": b"\xf5\x80\x80\x80",
    "five bytes": b"\xf8\x88\x80\x80\x80",
    "six bytes": b"\xfc\x84\x80\x80\x80\x80",
    "0xfe": b"\xfe",
    "0xff": b"\xff",
}
AROUND = (b'{"type":"ping","id":"', b'"}')


@pytest.mark.parametrize("case", BAD_TEXT)
def test_text_that_is_no_utf_8_is_1007(client, case):
    client.send(frame(TEXT, AROUND[0] + BAD_TEXT[case] + AROUND[1]))
    assert closed_with(client) == 1007


@pytest.mark.parametrize("case", ["three bytes that are cut", "four bytes that are cut", "a lead byte alone"])
@pytest.mark.parametrize("framing", ["at the end", "before an empty last fragment", "before the last fragment"])
def test_text_that_ends_within_a_character_is_1007(client, case, framing):
    text = b"x" + BAD_TEXT[case]
    client.send(*{"at the end": [frame(TEXT, text)],
                  "before an empty last fragment": [frame(TEXT, text, final=False), frame(CONTINUATION)],
                  "before the last fragment": [frame(TEXT, b"x", final=False), frame(CONTINUATION, text)]}[framing])
    assert closed_with(client) == 1007


@pytest.mark.parametrize("case", BAD_TEXT)
def test_what_is_no_utf_8_is_found_across_fragments(client, case):
    text = AROUND[0] + BAD_TEXT[case] + AROUND[1]
    split = len(AROUND[0]) + max(1, len(BAD_TEXT[case]) // 2)
    client.send(frame(TEXT, text[:split], final=False), frame(CONTINUATION, text[split:]))
    assert closed_with(client) == 1007


@pytest.mark.parametrize("case", [case for case in BAD_TEXT if "cut" not in case and case != "a lead byte alone"])
def test_what_is_no_utf_8_fails_before_the_rest_has_come(client, case):
    client.send(frame(TEXT, AROUND[0] + BAD_TEXT[case], final=False))
    assert closed_with(client) == 1007


def test_what_is_no_utf_8_fails_before_the_rest_of_its_frame_has_come(client):
    client.send(frame(TEXT, b"\xed\xa0\x80", length=MESSAGE_MAX, form=64))
    assert closed_with(client) == 1007


@pytest.mark.parametrize("text", ["", "\u0000", "\u007f", "\u0080", "\u07ff", "\u0800", "\ud7ff", "\ue000", "\ufffd", "\ufffe",
                                  "\uffff", "\U00010000", "\U0010ffff", "\ufeff", "\u03ba\u1f79\u03c3\u03bc\u03b5"])
def test_every_character_comes_through_whole_and_split_anywhere(client, text):
    whole = json.dumps({"type": "ping", "id": text}, ensure_ascii="\u0000" in text or "\u007f" in text).encode()
    client.send(frame(TEXT, whole))
    echoed(client, text)
    for split in range(len(AROUND[0]), len(whole) - 1):
        client.send(frame(TEXT, whole[:split], final=False), frame(CONTINUATION, whole[split:]))
        echoed(client, text)


def test_binary_need_not_be_utf_8(client):
    client.send(frame(BINARY, b"\xff\xfe"))
    assert client.message("error")["data"]["name"] == "bad_request"


# --- 5.5.1 and 7: closing -----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("code", [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 3000, 3999, 4000, 4999])
def test_a_close_is_answered_with_its_own_code(client, code):
    client.send(frame(CLOSE, close_payload(code)))
    assert closed_with(client) == code


@pytest.mark.parametrize("code", [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535])
def test_a_code_that_may_not_be_sent_is_1002(client, code):
    client.send(frame(CLOSE, close_payload(code)))
    assert closed_with(client) == 1002


def test_a_close_with_nothing_in_it_is_answered(client):
    client.send(frame(CLOSE))
    assert closed_with(client) in (None, 1000)


def test_half_a_code_is_1002(client):
    client.send(frame(CLOSE, b"\x03"))
    assert closed_with(client) == 1002


@pytest.mark.parametrize("reason", [b"", b"bye", "\u20ac".encode(), b"x" * 123], ids=len)
def test_a_reason_of_up_to_123_bytes_of_utf_8_is_taken(client, reason):
    client.send(frame(CLOSE, close_payload(1000, reason)))
    assert closed_with(client) == 1000


@pytest.mark.parametrize("case", BAD_TEXT)
def test_a_reason_that_is_no_utf_8_fails_the_connection(client, case):
    client.send(frame(CLOSE, close_payload(1000, b"x" + BAD_TEXT[case])))
    assert closed_with(client) in (1002, 1007)


AFTER_A_CLOSE = {
    "text": frame(TEXT, ping()), "a ping": frame(PING, b"late"), "another close": frame(CLOSE, close_payload(1001)),
    "a reserved opcode": frame(3), "text that is no UTF-8": frame(TEXT, b"\xff"),
    "unmasked text": frame(TEXT, ping(), masked=False), "noise": bytes(10_000),
}


@pytest.mark.parametrize("case", AFTER_A_CLOSE)
def test_what_comes_after_a_close_is_passed_over_and_nothing_is_sent(client, case):
    client.send(frame(CLOSE, close_payload(1000)), AFTER_A_CLOSE[case])
    assert closed_with(client) == 1000


def test_the_server_ends_the_connection_and_waits_for_no_client(client):
    client.send(frame(CLOSE, close_payload(1000)))
    assert client.expect(CLOSE).payload == close_payload(1000)
    assert client.read() is None, "7.1.1: the server closes TCP first"


@pytest.mark.parametrize("case", AFTER_A_CLOSE)
def test_a_close_of_the_servers_is_followed_by_nothing_but_the_end(client, case):
    """Here: since a message was too large."""
    client.send(frame(TEXT, b"", length=MESSAGE_MAX + 1, form=64))
    assert client.expect(CLOSE).payload[:2] == close_payload(1009)
    client.send(AFTER_A_CLOSE[case])
    assert client.rest() == []


def test_a_connection_that_fails_hurts_no_other(client, edge):
    with Raw(edge.port) as other:
        other.message("hello")
        client.send(frame(3))
        assert closed_with(client) == 1002
        other.send(frame(TEXT, ping()))
        echoed(other, "x")
