"""CBOR 1.1, as the SDK for Java writes and reads it: raw bodies, signed by botocore, in both directions; and bodies that
are broken in every place.

Needs boto3 and cbor2. KINESIN_DATA and KINESIN_PLAIN as in boto.py. Ends with 1 if an answer was not the service's.
"""

import http.client
import os
import time

import boto3
import cbor2
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest

data = os.environ["KINESIN_DATA"]
plain = os.environ["KINESIN_PLAIN"]
os.environ["AWS_SHARED_CREDENTIALS_FILE"] = f"{data}/admin.credentials"
key = boto3.Session().get_credentials()
connection = http.client.HTTPConnection(plain.removeprefix("http://"), timeout=20)


def post(operation, body):
    headers = {"Content-Type": "application/x-amz-cbor-1.1", "X-Amz-Target": f"Kinesis_20131202.{operation}"}
    request = AWSRequest("POST", plain + "/", data=body, headers=headers)
    SigV4Auth(key, "kinesis", "local-1").add_auth(request)
    connection.request("POST", "/", body, dict(request.headers))
    answer = connection.getresponse()
    assert answer.headers["Content-Type"] == "application/x-amz-cbor-1.1", answer.headers["Content-Type"]
    text = answer.read()
    # A tag for seconds with milliseconds behind it, which is what the service writes and its clients know.
    return answer.status, cbor2.loads(text.replace(b"\xc1\x1b", b"\x1b")) if text else {}


def call(operation, **members):
    status, answer = post(operation, cbor2.dumps(members))
    assert status == 200, (operation, status, answer)
    return answer


def of_open_length(members):
    """As streaming writers do: a map without its length, texts in parts."""
    parts = b"".join(cbor2.dumps(name) + cbor2.dumps(value) for name, value in members.items())
    return b"\xbf" + parts + b"\xff"


call("CreateStream", StreamName="cbor", ShardCount=1)
for _ in range(100):
    if call("DescribeStreamSummary", StreamName="cbor")["StreamDescriptionSummary"]["StreamStatus"] == "ACTIVE":
        break
    time.sleep(0.02)
body = bytes(range(256))
put = call("PutRecord", StreamName="cbor", Data=body, PartitionKey="k\u00e9y")
assert len(put["SequenceNumber"]) == 56
many = call("PutRecords", StreamName="cbor", Records=[{"Data": b"%d" % n, "PartitionKey": "k"} for n in range(100)])
assert many["FailedRecordCount"] == 0 and len(many["Records"]) == 100
status, answer = post("GetShardIterator", of_open_length(
    {"StreamName": "cbor", "ShardId": "shardId-000000000000", "ShardIteratorType": "TRIM_HORIZON"}))
assert status == 200, answer
got = call("GetRecords", ShardIterator=answer["ShardIterator"])
assert [r["Data"] for r in got["Records"]] == [body] + [b"%d" % n for n in range(100)]
assert got["Records"][0]["PartitionKey"] == "k\u00e9y"
arrival = got["Records"][0]["ApproximateArrivalTimestamp"]
assert abs(arrival / 1000 - time.time()) < 60, arrival
since = cbor2.CBORTag(1, int(time.time() * 1000) - 3_600_000)
at = call("GetShardIterator", StreamName="cbor", ShardId="shardId-000000000000", ShardIteratorType="AT_TIMESTAMP", Timestamp=since)
assert len(call("GetRecords", ShardIterator=at["ShardIterator"])["Records"]) == 101

status, answer = post("PutRecord", cbor2.dumps({"StreamName": "cbor", "Data": b"x"}))
assert status == 400 and answer["__type"] == "ValidationException" and "'partitionKey'" in answer["message"], answer
status, answer = post("PutRecord", cbor2.dumps({"StreamName": 7, "Data": b"x", "PartitionKey": "k"}))
assert status == 400 and answer["__type"] == "SerializationException", answer

# Cut anywhere, nothing of it is done.
whole = cbor2.dumps({"StreamName": "cbor", "Records": [{"Data": b"cut", "PartitionKey": "k"}] * 3})
for end in range(len(whole)):
    status, answer = post("PutRecords", whole[:end])
    assert status == 400, (end, answer)
bombs = [b"\x9f" * 5000, b"\x81" * 5000, b"\xbb" + b"\xff" * 8, b"\x5b" + b"\xff" * 8, b"\x9b" + b"\x7f" * 8,
         b"\xc1" * 5000, b"\xa1\x61\xff\x01", b"\x1f", b"\xff", whole + b"\x00"]
for bomb in bombs:
    status, answer = post("PutRecords", bomb)
    assert status == 400, (bomb[:16], answer)
at = call("GetShardIterator", StreamName="cbor", ShardId="shardId-000000000000", ShardIteratorType="TRIM_HORIZON")
assert len(call("GetRecords", ShardIterator=at["ShardIterator"])["Records"]) == 101, "a broken body has left something"
call("DeleteStream", StreamName="cbor")
print(f"CBOR goes both ways; {len(whole) + len(bombs)} broken bodies were refused")
