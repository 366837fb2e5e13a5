"""What every request has, whatever it asks: signatures, encodings, bodies that are no bodies. Needs boto3 and cbor2."""

import base64
import hashlib
import http.client
import json
import struct
import time
import urllib.parse
from concurrent.futures import ThreadPoolExecutor

import cbor2
from botocore.auth import SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.eventstream import EventStreamBuffer

from common import *


def said(answer):
    """The status, type and text of an error in JSON."""
    status, body, _ = answer
    error = json.loads(body)
    return status, error["__type"], error.get("message", error.get("Message"))


@case
def signatures_are_checked():
    key = credentials()
    wrong = client(aws_access_key_id=key.access_key, aws_secret_access_key="x" * 40)
    assert refused("InvalidSignatureException", wrong.list_streams).startswith("The request signature we calculated")
    unknown = client(aws_access_key_id="AKIAXXXXXXXXXXXXXXXX", aws_secret_access_key="x")
    assert refused("UnrecognizedClientException", unknown.list_streams) == "The security token included in the request is invalid."
    good = sign("ListStreams", b"{}")
    bare = {name: value for name, value in good.items() if name != "authorization"}
    status, body, headers = send(bare)
    assert (status, body) == (400, b'{"__type":"MissingAuthenticationTokenException","message":"Missing Authentication Token"}')
    assert len(headers["x-amzn-RequestId"]) == 36 and headers["x-amz-id-2"]
    status, kind, text = said(send({**bare, "authorization": "AWS4-HMAC-SHA256 Credential=x"}))
    assert kind == "IncompleteSignatureException" and "'Signature' parameter" in text
    assert send(good)[0] == 200
    assert said(send(good, b"{ }"))[1] == "InvalidSignatureException", "another body"
    assert said(send({**good, "x-amz-target": "Kinesis_20131202.DescribeLimits"}))[1] == "InvalidSignatureException"
    assert said(send(good, path="/?a=b"))[1] == "InvalidSignatureException", "another query"
    query = "?X-Amz-Algorithm=AWS4-HMAC-SHA256"
    assert said(send(good, path="/" + query))[2].startswith("Found both")
    for how, text in [
        ({"at": -301}, "Signature expired: "),
        ({"at": 302}, "Signature not yet current: "),
        ({"service": "s3"}, "Credential should be scoped to correct service: 'kinesis'. "),
        ({"region": "eu.west"}, "Credential should be scoped to a valid region, not 'eu.west'. "),
        ({"day": "20200101"}, "Date in Credential scope does not match YYYYMMDD"),
        ({"leave": ("host",)}, "'Host' or ':authority' must be a 'SignedHeader'"),
        ({"leave": ("x-amz-target",)}, "'x-amz-target' must be a 'SignedHeader'"),
    ]:
        status, kind, message = said(post("ListStreams", **how))
        assert (status, kind) == (400, "InvalidSignatureException") and message.startswith(text), (how, message)
    for at in (-280, 280):
        assert post("ListStreams", at=at)[0] == 200
    for part in ("Credential", "Signature", "SignedHeaders"):
        cut = good["authorization"].replace(f"{part}=", "X=")
        assert f"'{part}' parameter" in said(send({**good, "authorization": cut}))[2]
    spaceless = good["authorization"].replace(", ", ",")
    assert send({**good, "authorization": spaceless})[0] == 200
    error = cbor2.loads(post("ListStreams", b"\xa0", CBOR, at=-400)[1])
    assert error["__type"] == "InvalidSignatureException" and error["message"].startswith("Signature expired")


@case
def a_presigned_query_is_as_good_as_a_header():
    headers = {"Content-Type": JSON, "X-Amz-Target": "Kinesis_20131202.ListStreams"}

    class WithBody(SigV4QueryAuth):
        def payload(self, request):
            return hashlib.sha256(b"{}").hexdigest()

    request = AWSRequest("POST", plain + "/", headers=headers)
    WithBody(credentials(), "kinesis", "local-1", expires=60).add_auth(request)
    path = request.url.removeprefix(plain)
    assert send({**headers, **dict(request.headers)}, path=path)[0] == 200
    changed = path.replace("X-Amz-Expires=60", "X-Amz-Expires=61")
    assert said(send({**headers, **dict(request.headers)}, path=changed))[1] == "InvalidSignatureException"
    assert "X-Amz-Signature" in said(send(headers, path=path.split("&X-Amz-Signature")[0]))[2]


@case
def methods_types_and_targets_are_looked_at_in_the_service_s_order():
    assert send({}, method="PUT")[0] == 403 and b"<AccessDeniedException>" in send({}, method="GET", body=None)[1]
    assert post("ListStreams", kind="text/plain")[:2] == (404, b"<UnknownOperationException/>\n")
    status, body, _ = post("ListStreams", kind="application/json")
    assert status == 404 and json.loads(body)["Output"]["__type"].endswith("#UnknownOperationException")
    for target in ("Nothing", "CreateQueue", "CreateChannel", "listStreams"):
        assert post(target)[:2] == (400, b'{"__type":"UnknownOperationException"}')
    assert post("ListStreams", b"{", key=credentials())[:2] == (400, b'{"__type":"SerializationException"}')
    unsigned = {"Content-Type": JSON, "X-Amz-Target": "Kinesis_20131202.ListStreams"}
    assert send(unsigned, b"{")[1] == b'{"__type":"SerializationException"}', "before the signature"
    assert send(unsigned, b'{"Limit":"x"}')[1].startswith(b'{"__type":"MissingAuth'), "types are looked at after it"
    assert post("ListStreams", b'{"Limit":"x"}')[1] == (
        b'{"__type":"SerializationException","Message":"class java.lang.String can not be converted to an Integer"}')
    assert post("ListStreams", kind=f"{JSON}; charset=utf-8")[0] == 200
    status, body, headers = post("AddTagsToStream", b'{"StreamName":"none","Tags":{"a":"b"}}')
    assert (status, headers["Content-Type"]) == (400, JSON)


BAD_JSON = [
    b"", b"{", b"}", b"null", b"7", b'"a"', b"{}{}", b'{"a"}', b'{"a":}', b"{'a':1}", b'{"a":1,}', b'{"a":01}', b'{"a":1e999}',
    b'{"a":"\xff"}', b'{"a":"\xc3"}', b'{"a":"\\ud800"}', b'{"a":"\n"}', b'{"a":NaN}', b"\xef\xbb\xbf{}", b"[" * 50_000, b'{"a":' * 50_000,
    b'{"a":[' + b"0," * 30_000 + b"0]}", b'{"a":' + b"[" * 200 + b"]" * 200 + b"}"]
GOOD_CBOR = cbor2.dumps({"StreamName": "bad", "Data": b"x", "PartitionKey": "a"})
BAD_CBOR = [GOOD_CBOR[:n] for n in range(len(GOOD_CBOR))] + [
    GOOD_CBOR + b"\0", b"\xf6", b"\x07", b"\x9f" * 50_000, b"\xa1\x61a" * 50_000, b"\x9b" + b"\xff" * 8, b"\xbb" + b"\xff" * 8,
    b"\xa1\x61a\x5b" + b"\xff" * 8, b"\xa1\x61a\x5a\xff\xff\xff\xff", b"\xa1\x61\xff\x00", b"\xa1\x61a\x62\xc3\x28", b"\xa1\x00\x00",
    b"\xa1\x61a\x1c", b"\xa1\x61a\xff", b"\xbf\x61a\xff", b"\xa1\x61a\x9f" + b"\0" * 30_000 + b"\xff", b"\xa1\x61a\x5f\x61a\xff", b"\xc1" * 50_000]


@case
def bodies_that_are_none_are_refused_and_change_nothing():
    make("bad")
    for kind, bodies in ((JSON, BAD_JSON), (CBOR, BAD_CBOR)):
        for body in bodies:
            status, answer, headers = post("PutRecord", body, kind)
            error = json.loads(answer) if kind == JSON else cbor2.loads(answer)
            assert (status, error["__type"], headers["Content-Type"]) == (400, "SerializationException", kind), (body[:40], answer)
    for body, kind, text in [
        (b"[]", "SerializationException", "Start of list found where not expected"),
        (b'{"StreamName":"bad","PartitionKey":"a","Data":7}', "SerializationException", "class java.math.BigDecimal can not be converted to a Blob"),
        (b'{"StreamName":"bad","PartitionKey":"a","Data":"eA"}', "SerializationException", "Base64 encoded length is expected a multiple of 4"),
        (b'{"StreamName":"bad","PartitionKey":"a","Data":"e*=="}', "SerializationException", "Invalid Base64 character: '*'"),
        (b'{"StreamName":"bad","PartitionKey":"a","Data":"eA==","Data":null}', "ValidationException", "Value null at 'data'"),
        (b'{"StreamName":"bad","StreamName":"","PartitionKey":"a","Data":"eA=="}', "ValidationException", "at 'streamName'"),
    ]:
        _, got, message = said(post("PutRecord", body))
        assert got == kind and text in message, (body, got, message)
    for number in ("99999999999999999999999999", "-1e300", "2147483648", "0", "-9223372036854775809"):
        _, got, message = said(post("GetRecords", b'{"ShardIterator":"AAAA","Limit":%s}' % number.encode()))
        assert got == "ValidationException" and "at 'limit'" in message, (number, got, message)
    entries = ",".join('{"Data":"eA==","PartitionKey":"a"}' for _ in range(20))
    for last in ('{"Data":"eA==","PartitionKey":""}', '{"Data":"eA","PartitionKey":"a"}', '{"Data":"eA=="}', "7", '{"Data":"eA==","PartitionKey":"a","ExplicitHashKey":"340282366920938463463374607431768211456"}'):
        status, _, _ = post("PutRecords", f'{{"StreamName":"bad","Records":[{entries},{last}]}}'.encode())
        assert status == 400, last
    records, _ = read_all("bad", "shardId-000000000000")
    assert records == [], "nothing is partially applied"
    # Of two members with one name the last one counts.
    post("PutRecord", b'{"StreamName":"none","StreamName":"bad","PartitionKey":"a","Data":"","Data":"eA=="}')
    records, _ = read_all("bad", "shardId-000000000000")
    assert [r["Data"] for r in records] == [b"x"]


@case
def too_much_is_refused_before_it_is_sent():
    at = urllib.parse.urlsplit(plain).netloc
    connection = http.client.HTTPConnection(at, timeout=10)
    connection.putrequest("POST", "/")
    connection.putheader("Content-Length", str(17 << 20))
    connection.endheaders()
    assert connection.getresponse().status == 413
    connection = http.client.HTTPConnection(at, timeout=10)
    connection.putrequest("POST", "/")
    connection.putheader("X-Long", "x" * (1 << 20))
    try:
        connection.endheaders()
        assert connection.getresponse().status == 431
    except OSError:
        pass  # It was closed while we were still sending.
    assert post("ListStreams")[0] == 200


@case
def bodies_in_chunks_and_after_a_question_are_read():
    body = b'{"Limit":1}'
    headers = sign("ListStreams", body)
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(plain).netloc, timeout=10)
    connection.request("POST", "/", iter([body[:3], body[3:]]), headers, encode_chunked=True)
    assert connection.getresponse().read().startswith(b'{"StreamNames"')
    # The same connection goes on; the client sends the body only when it is asked to.
    connection.putrequest("POST", "/", skip_host=True, skip_accept_encoding=True)
    for name, value in {**headers, "expect": "100-continue", "content-length": str(len(body))}.items():
        connection.putheader(name, value)
    connection.endheaders()
    assert connection.sock.recv(100).startswith(b"HTTP/1.1 100 ")
    connection.send(body)
    assert connection.sock.recv(100).startswith(b"HTTP/1.1 200 ")


@case
def pages_in_browsers_are_let_in():
    asked = {"Origin": "http://x", "Access-Control-Request-Headers": "a", "Access-Control-Request-Method": "POST"}
    status, body, headers = send(asked, None, "OPTIONS")
    assert (status, body, headers["Access-Control-Max-Age"], headers["Access-Control-Allow-Headers"]) == (200, b"", "172800", "a")
    assert (headers["Access-Control-Allow-Origin"], headers["Access-Control-Allow-Methods"]) == ("*", "POST")
    for how in ({}, {"at": -400}):
        _, _, headers = post("ListStreams", more={"Origin": "http://x"}, **how)
        assert headers["Access-Control-Allow-Origin"] == "*" and "x-amzn-RequestId" in headers["Access-Control-Expose-Headers"]
    assert "Access-Control-Allow-Origin" not in post("ListStreams")[2]


MILLISECONDS = 0xFF00


def call(target, **body):
    """An operation in CBOR, and its answer; times in it are `CBORTag(MILLISECONDS, number)`."""
    status, answer, headers = post(target, cbor2.dumps(body), CBOR)
    assert headers["Content-Type"] == CBOR
    # cbor2 would take the milliseconds for seconds.
    value = cbor2.loads(answer.replace(b"\xc1\x1b", b"\xd9\xff\x00\x1b")) if answer else None
    return status, value


@case
def cbor_says_the_same_as_json_in_both_directions():
    assert call("CreateStream", StreamName="cbor", ShardCount=1, Tags={"a": "\u00e9"}) == (200, None)
    wait_active("cbor")
    before = int(time.time() * 1000)
    data = bytes(range(256)).replace(b"\xc1", b"")
    status, put = call("PutRecord", StreamName="cbor", Data=data, PartitionKey="\u00fc\U0001f600")
    assert status == 200 and len(put["SequenceNumber"]) == 56
    status, many = call("PutRecords", StreamName="cbor", Records=[{"Data": b"", "PartitionKey": "b", "ExplicitHashKey": "7"}])
    assert status == 200 and many["FailedRecordCount"] == 0 and many["Records"][0]["ShardId"] == "shardId-000000000000"
    times = {"AT_TIMESTAMP": cbor2.CBORTag(1, before - 1000), "TRIM_HORIZON": None}
    for kind, at in times.items():
        _, found = call("GetShardIterator", StreamName="cbor", ShardId="shardId-000000000000", ShardIteratorType=kind, Timestamp=at)
        status, got = call("GetRecords", ShardIterator=found["ShardIterator"], Limit=10)
        assert [r["Data"] for r in got["Records"]] == [data, b""] and got["MillisBehindLatest"] == 0
        arrival = got["Records"][0]["ApproximateArrivalTimestamp"]
        assert arrival.tag == MILLISECONDS and before - 1000 <= arrival.value <= before + 60_000, arrival
        assert got["Records"][0]["PartitionKey"] == "\u00fc\U0001f600"
    later = cbor2.CBORTag(1, before + 3_600_000)
    status, error = call("GetShardIterator", StreamName="cbor", ShardId="shardId-000000000000", ShardIteratorType="AT_TIMESTAMP", Timestamp=later)
    assert (status, error["__type"]) == (400, "InvalidArgumentException") and "timestampInMillis" in error["message"]
    through_json = k.get_shard_iterator(StreamName="cbor", ShardId="shardId-000000000000", ShardIteratorType="TRIM_HORIZON")
    time.sleep(1)
    assert k.get_records(ShardIterator=through_json["ShardIterator"])["Records"][0]["Data"] == data
    _, described = call("DescribeStream", StreamName="cbor")
    created = described["StreamDescription"]["StreamCreationTimestamp"]
    assert (created.tag, created.value % 1000) == (MILLISECONDS, 0)
    assert described["StreamDescription"]["HasMoreShards"] is False
    status, error = call("PutRecord", StreamName="cbor", Data="eA==", PartitionKey=7)
    assert (status, error["__type"]) == (400, "SerializationException"), error
    status, error = call("PutRecord", StreamName="cbor", PartitionKey="a")
    assert (status, error["__type"]) == (400, "ValidationException") and "Value null at 'data'" in error["message"]
    # Open lengths, as the Java SDK writes them.
    open_ended = b"\xbf\x6aStreamName\x64cbor\x64Data\x5f\x41x\x41y\xff\x6cPartitionKey\x7f\x61a\x61b\xff\xff"
    status, answer, _ = post("PutRecord", open_ended, CBOR)
    assert status == 200 and answer[:1] == b"\xbf" and answer[-1:] == b"\xff"
    time.sleep(0.5)
    _, got = call("GetRecords", ShardIterator=found["ShardIterator"])
    assert (got["Records"][2]["Data"], got["Records"][2]["PartitionKey"]) == (b"xy", "ab")
    assert call("DeleteStream", StreamName="cbor") == (200, None)


@case
def events_of_a_subscription_are_cbor_where_the_request_is():
    consumer = make_consumer(make("events"))["ConsumerARN"]
    k.put_record(StreamName="events", Data=b"\xc0\xff", PartitionKey="a")
    body = cbor2.dumps({"ConsumerARN": consumer, "ShardId": "shardId-000000000000", "StartingPosition": {"Type": "TRIM_HORIZON"}})
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(plain).netloc, timeout=10)
    connection.request("POST", "/", body, sign("SubscribeToShard", body, CBOR))
    answer = connection.getresponse()
    assert answer.headers["Content-Type"] == "application/vnd.amazon.eventstream"
    buffer, events = EventStreamBuffer(), []
    while len(events) < 2:
        buffer.add_data(answer.read1(65536))
        events += list(buffer)
    kinds = [(e.headers[":event-type"], e.headers[":content-type"]) for e in events]
    assert kinds == [("initial-response", CBOR), ("SubscribeToShardEvent", CBOR)], kinds
    event = cbor2.loads(events[1].payload.replace(b"\xc1\x1b", b"\xd9\xff\x00\x1b"))
    assert event["Records"][0]["Data"] == b"\xc0\xff" and len(event["ContinuationSequenceNumber"]) == 56
    connection.close()


@case
def http_2_is_known_by_its_first_bytes_where_nobody_agreed_on_it():
    import socket
    import ssl

    settings = b"\0\0\0\4\0\0\0\0\0"
    context = ssl.create_default_context(cafile=f"{data}/ca.pem")
    for url in (endpoint, plain):
        host, port = urllib.parse.urlsplit(url).netloc.split(":")
        with socket.create_connection((host, int(port)), timeout=10) as raw:
            # As the SDK for Java does it: TLS without ALPN.
            link = context.wrap_socket(raw, server_hostname=host) if url == endpoint else raw
            link.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + settings)
            head = b""
            while len(head) < 9:
                part = link.recv(9 - len(head))
                assert part, "closed"
                head += part
            assert head[3] == 4, f"a frame of settings, not {head}"


@case
def a_storm_of_bad_requests_keeps_nobody_else_waiting():
    make("calm")
    body = b"[" * 200_000
    headers = sign("PutRecord", body)
    at = urllib.parse.urlsplit(plain).netloc

    def storm(_):
        connection = http.client.HTTPConnection(at, timeout=20)
        for _ in range(50):
            connection.request("POST", "/", body, headers)
            assert connection.getresponse().read() == b'{"__type":"SerializationException"}'

    with ThreadPoolExecutor(4) as pool:
        storms = pool.map(storm, range(4))
        slowest = 0
        for _ in range(20):
            began = time.time()
            k.put_record(StreamName="calm", Data=b"x", PartitionKey="a")
            slowest = max(slowest, time.time() - began)
        list(storms)
    assert slowest < 2, slowest


run()
