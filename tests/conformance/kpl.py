"""Records that a producer library of others has aggregated, put through boto3: stored as they are, read by `kinesin tail`
one by one.

Needs boto3 and aws-kinesis-agg. KINESIN_DATA and KINESIN_ENDPOINT as in boto.py, KINESIN the program. Ends with 1 if
anything is lost or changed.
"""

import base64
import json
import os
import subprocess
import tempfile
import time

import boto3
from aws_kinesis_agg.aggregator import RecordAggregator
from aws_kinesis_agg.deaggregator import deaggregate_records

data = os.environ["KINESIN_DATA"]
os.environ["AWS_SHARED_CREDENTIALS_FILE"] = f"{data}/admin.credentials"
k = boto3.client("kinesis", endpoint_url=os.environ["KINESIN_ENDPOINT"], region_name="local-1", verify=f"{data}/ca.pem")
k.create_stream(StreamName="kpl", ShardCount=1)
k.get_waiter("stream_exists").wait(StreamName="kpl", WaiterConfig={"Delay": 1})

made = []
aggregator = RecordAggregator(max_size=20_000)


def put(record):
    if record:
        key, hash_key, body = record.get_contents()
        more = {"ExplicitHashKey": hash_key} if hash_key else {}
        k.put_record(StreamName="kpl", Data=body, PartitionKey=key, **more)


for n in range(1000):
    key, hash_key = f"key-{n % 7}", str(n) if n % 3 == 0 else None
    made.append((key, hash_key, f"record {n} of the aggregator"))
    put(aggregator.add_user_record(key, made[-1][2].encode(), hash_key))
put(aggregator.clear_and_get())
plain = "a record like any other"
k.put_record(StreamName="kpl", Data=plain.encode(), PartitionKey="p")

iterator = k.get_shard_iterator(StreamName="kpl", ShardId="0", ShardIteratorType="TRIM_HORIZON")["ShardIterator"]
stored = k.get_records(ShardIterator=iterator)["Records"]
assert 2 <= len(stored) < 10, len(stored)


def tail(*words):
    printed = subprocess.run(
        [os.environ["KINESIN"], "tail", "kpl", "--data", data, "--from", "trim-horizon", "--no-follow", "--json", *words],
        check=True, capture_output=True, text=True).stdout
    return [json.loads(line) for line in printed.splitlines()]


told = tail()
assert [(r["partition_key"], r.get("explicit_hash_key"), r["data"]) for r in told] == made + [("p", None, plain)]
assert told[1]["subsequence"] == 1 and "subsequence" not in told[-1]
assert len(tail("--raw")) == len(stored)


def taken_apart(stored):
    """By the library of others, from what the API gave."""
    events = [{"kinesis": {
        "data": base64.b64encode(r["Data"]).decode(), "partitionKey": r["PartitionKey"], "explicitHashKey": None,
        "sequenceNumber": r["SequenceNumber"], "kinesisSchemaVersion": "1.0",
        "approximateArrivalTimestamp": r["ApproximateArrivalTimestamp"].timestamp()}} for r in stored]
    return [(r["kinesis"]["partitionKey"], base64.b64decode(r["kinesis"]["data"]).decode()) for r in deaggregate_records(events)]


assert taken_apart(stored) == [(key, body) for key, _, body in made] + [("p", plain)]
print(f"{len(made)} records in {len(stored)} were read one by one")

# The other way round: our agent aggregates, and they take it apart.
kinesin = os.environ["KINESIN"]
with tempfile.TemporaryDirectory() as home:
    config = subprocess.run([kinesin, "agent", "enroll", "kpl", "--data", data], check=True, capture_output=True, text=True).stdout
    config += f"""
[batch]
aggregate = "kpl"
linger_ms = 50
[spool]
dir = "{home}/spool"
[[source.file]]
paths = ["{home}/*.log"]
stream = "kpl-agent"
partition_key = "{{file_name}}"
"""
    with open(f"{home}/agent.toml", "w") as file:
        file.write(config)
    lines = {name: [f"line {n} of {name}" for n in range(3000)] for name in ("a.log", "b.log")}
    for name, these in lines.items():
        with open(f"{home}/{name}", "w") as file:
            file.writelines(line + "\n" for line in these)
    agent = subprocess.Popen(
        [os.path.join(os.path.dirname(kinesin), "kinesin-agent"), "--config", f"{home}/agent.toml"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        got, stored = {}, []
        for _ in range(200):
            time.sleep(0.25)
            try:
                iterator = k.get_shard_iterator(StreamName="kpl-agent", ShardId="0", ShardIteratorType="TRIM_HORIZON")["ShardIterator"]
                stored = k.get_records(ShardIterator=iterator)["Records"]
            except k.exceptions.ResourceNotFoundException:
                continue
            got = {name: [body for key, body in taken_apart(stored) if key == name] for name in lines}
            if got == lines:
                break
        assert got == lines, {name: len(bodies) for name, bodies in got.items()}
        assert len(stored) < 100, len(stored)
    finally:
        agent.kill()
        agent.wait()
print(f"6000 lines in {len(stored)} records of our agent were taken apart by others")
