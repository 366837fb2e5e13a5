"""What the suites with Python clients share: clients, requests by hand, cases.

KINESIN_DATA is a running store's data folder, KINESIN_ENDPOINT its https address, KINESIN_PLAIN its http address.
`run()` prints a line for each case and ends with 1 if one failed.
"""

import datetime
import hashlib
import hmac
import http.client
import os
import sys
import time
import traceback
import urllib.parse

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

data = os.environ["KINESIN_DATA"]
endpoint = os.environ["KINESIN_ENDPOINT"]
plain = os.environ["KINESIN_PLAIN"]
os.environ["AWS_SHARED_CREDENTIALS_FILE"] = f"{data}/admin.credentials"
os.environ["AWS_EC2_METADATA_DISABLED"] = "true"
ACCOUNT = "000000000000"
# tests/conformance/main.rs gives the store a second key.
OTHER_ACCOUNT = "123456789012"
JSON, CBOR = "application/x-amz-json-1.1", "application/x-amz-cbor-1.1"


def client(url=endpoint, region="local-1", profile=None, **more):
    config = Config(retries={"max_attempts": 0}, parameter_validation=False, **more.pop("config", {}))
    session = boto3.Session(profile_name=profile)
    made = session.client("kinesis", endpoint_url=url, region_name=region, verify=f"{data}/ca.pem", config=config, **more)
    made.meta.events.register("after-call.kinesis", note)
    return made


# Operations that were done at least once, and those that were refused at least once.
done, denied = set(), set()


def note(http_response, model, **_):
    (done if http_response.status_code == 200 else denied).add(model.name)


def credentials(profile=None):
    return boto3.Session(profile_name=profile).get_credentials()


k = client()
cases = []


def case(function):
    cases.append(function)
    return function


def run():
    failed = 0
    for function in cases:
        if len(sys.argv) > 1 and sys.argv[1] not in function.__name__:
            continue
        started = time.time()
        try:
            function()
            print(f"ok      {function.__name__} ({time.time() - started:.1f} s)", flush=True)
        except Exception:
            failed += 1
            print(f"FAILED  {function.__name__}", flush=True)
            traceback.print_exc()
    sys.exit(failed > 0)


def refused(kind, call, *arguments, **named):
    try:
        call(*arguments, **named)
    except ClientError as error:
        got = error.response["Error"]
        assert got["Code"] == kind, f"{got['Code']}: {got['Message']}, not {kind}"
        return got["Message"]
    raise AssertionError(f"{kind} was expected")


def wait_active(name, k=k):
    for _ in range(400):
        if k.describe_stream_summary(StreamName=name)["StreamDescriptionSummary"]["StreamStatus"] == "ACTIVE":
            return
        time.sleep(0.01)
    raise AssertionError(f"{name} does not become active")


def wait_gone(name, k=k):
    for _ in range(400):
        try:
            k.describe_stream_summary(StreamName=name)
        except k.exceptions.ResourceNotFoundException:
            return
        time.sleep(0.01)
    raise AssertionError(f"{name} does not go")


def make(name, shards=1, k=k, **more):
    k.create_stream(StreamName=name, ShardCount=shards, **more)
    wait_active(name, k)
    return k.describe_stream_summary(StreamName=name)["StreamDescriptionSummary"]["StreamARN"]


def make_consumer(arn, name="c"):
    consumer = k.register_stream_consumer(StreamARN=arn, ConsumerName=name)["Consumer"]
    for _ in range(400):
        described = k.describe_stream_consumer(ConsumerARN=consumer["ConsumerARN"])["ConsumerDescription"]
        if described["ConsumerStatus"] == "ACTIVE":
            return consumer
        time.sleep(0.01)
    raise AssertionError(f"{name} does not become active")


def read_all(name, shard, kind="TRIM_HORIZON", k=k, **more):
    iterator = k.get_shard_iterator(StreamName=name, ShardId=shard, ShardIteratorType=kind, **more)["ShardIterator"]
    records = []
    while iterator:
        answer = k.get_records(ShardIterator=iterator)
        records += answer["Records"]
        iterator = answer.get("NextShardIterator")
        if iterator and not answer["Records"]:
            assert answer["MillisBehindLatest"] == 0
            return records, None
        time.sleep(0.21)
    return records, answer["ChildShards"]


def sign(target, body, kind=JSON, *, key=None, region="local-1", service="kinesis", at=0, day=None, leave=(), host=None):
    """Headers of a request, signed by hand: `at` seconds from now, without the headers in `leave` being signed."""
    key = key or credentials()
    now = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=at)
    stamp = now.strftime("%Y%m%dT%H%M%SZ")
    day = day or stamp[:8]
    headers = {
        "content-type": kind, "host": host or urllib.parse.urlsplit(plain).netloc, "x-amz-date": stamp,
        "x-amz-target": f"Kinesis_20131202.{target}"}
    names = [name for name in sorted(headers) if name not in leave]
    lines = "".join(f"{name}:{headers[name]}\n" for name in names)
    signed = ";".join(names)
    canonical = f"POST\n/\n\n{lines}\n{signed}\n{hashlib.sha256(body).hexdigest()}"
    scope = f"{day}/{region}/{service}/aws4_request"
    text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    secret = b"AWS4" + key.secret_key.encode()
    for part in scope.split("/"):
        secret = hmac.digest(secret, part.encode(), "sha256")
    signature = hmac.digest(secret, text.encode(), "sha256").hex()
    headers["authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={key.access_key}/{scope}, SignedHeaders={signed}, Signature={signature}")
    return headers


connections = {}


def send(headers, body=b"{}", method="POST", path="/"):
    """A request by hand over HTTP/1.1, on one connection for all of them: status, body, headers."""
    at = urllib.parse.urlsplit(plain).netloc
    for again in (True, False):
        connection = connections.setdefault(at, http.client.HTTPConnection(at, timeout=20))
        try:
            connection.request(method, path, body=body, headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.read(), answer.headers
        except (http.client.HTTPException, OSError):
            connections.pop(at).close()
            if not again:
                raise


def post(target, body=b"{}", kind=JSON, more={}, **how):
    """A signed request with any body."""
    return send({**sign(target, body, kind, **how), **more}, body)
