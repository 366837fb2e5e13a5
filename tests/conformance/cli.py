"""Every operation through the AWS CLI, once as it should be and, where that says something, once as it should not.

Needs awscli beside this Python. KINESIN_DATA and KINESIN_ENDPOINT as in common.py. Ends with 1 if an answer was not the
service's, or an operation was left out.
"""

import json
import os
import re
import subprocess
import sys
import time

import botocore.loaders
from botocore import xform_name

aws_program = os.path.join(os.path.dirname(sys.executable), "aws")
done = set()


def run(operation, *words):
    done.add(operation)
    return subprocess.run(
        [aws_program, "--endpoint-url", os.environ["KINESIN_ENDPOINT"], "--output", "json", "kinesis", operation, *words],
        capture_output=True, text=True, timeout=60)


def aws(operation, *words):
    answer = run(operation, *words)
    assert answer.returncode == 0, (operation, words, answer.stderr)
    return json.loads(answer.stdout) if answer.stdout.strip() else {}


def refused(kind, operation, *words):
    answer = run(operation, *words)
    assert answer.returncode != 0 and f"({kind})" in answer.stderr, (operation, words, answer.stdout, answer.stderr)


name = ("--stream-name", "cli")
zero = "shardId-000000000000"
aws("create-stream", *name, "--shard-count", "2")
refused("ResourceInUseException", "create-stream", *name, "--shard-count", "1")
aws("wait", "stream-exists", *name)
summary = aws("describe-stream-summary", *name)["StreamDescriptionSummary"]
arn = summary["StreamARN"]
by_arn = ("--stream-arn", arn)
assert (summary["OpenShardCount"], arn) == (2, "arn:aws:kinesis:local-1:000000000000:stream/cli")
assert len(aws("describe-stream", *name)["StreamDescription"]["Shards"]) == 2
assert "cli" in aws("list-streams")["StreamNames"]
assert aws("describe-limits")["OpenShardCount"] >= 2
assert len(aws("list-shards", *name, "--shard-filter", "Type=AT_LATEST")["Shards"]) == 2

# This version takes data as it is, and gives it back in base64.
put = aws("put-record", *name, "--partition-key", "a", "--data", "one", "--explicit-hash-key", "0")
assert re.fullmatch(r"\d{56}", put["SequenceNumber"]) and put["ShardId"] == zero
many = aws("put-records", *name, "--records", "Data=two,PartitionKey=a,ExplicitHashKey=0", "Data=three,PartitionKey=b")
assert many["FailedRecordCount"] == 0
refused("ResourceNotFoundException", "put-record", "--stream-name", "nothing", "--partition-key", "a", "--data", "b25l")
iterator = aws("get-shard-iterator", *name, "--shard-id", zero, "--shard-iterator-type", "TRIM_HORIZON")["ShardIterator"]
assert [r["Data"] for r in aws("get-records", "--shard-iterator", iterator)["Records"]][:2] == ["b25l", "dHdv"]
refused("InvalidArgumentException", "get-records", "--shard-iterator", "nonsense")

aws("add-tags-to-stream", *name, "--tags", "team=a,stage=b")
aws("remove-tags-from-stream", *name, "--tag-keys", "stage")
assert aws("list-tags-for-stream", *name)["Tags"] == [{"Key": "team", "Value": "a"}]
aws("tag-resource", "--resource-arn", arn, "--tags", "more=c")
aws("untag-resource", "--resource-arn", arn, "--tag-keys", "team")
assert aws("list-tags-for-resource", "--resource-arn", arn)["Tags"] == [{"Key": "more", "Value": "c"}]
policy = '{"Version": "2012-10-17", "Statement": []}'
aws("put-resource-policy", "--resource-arn", arn, "--policy", policy)
assert json.loads(aws("get-resource-policy", "--resource-arn", arn)["Policy"]) == json.loads(policy)
aws("delete-resource-policy", "--resource-arn", arn)
refused("ResourceNotFoundException", "delete-resource-policy", "--resource-arn", arn)

for operation, words in [
    ("increase-stream-retention-period", ("--retention-period-hours", "48")),
    ("decrease-stream-retention-period", ("--retention-period-hours", "24")),
    ("enable-enhanced-monitoring", ("--shard-level-metrics", "ALL")),
    ("disable-enhanced-monitoring", ("--shard-level-metrics", "ALL")),
    ("start-stream-encryption", ("--encryption-type", "KMS", "--key-id", "alias/aws/kinesis")),
    ("stop-stream-encryption", ("--encryption-type", "KMS", "--key-id", "alias/aws/kinesis")),
    ("split-shard", ("--shard-to-split", zero, "--new-starting-hash-key", str(2**126))),
    ("merge-shards", ("--shard-to-merge", "shardId-000000000002", "--adjacent-shard-to-merge", "shardId-000000000003")),
    ("update-shard-count", ("--target-shard-count", "4", "--scaling-type", "UNIFORM_SCALING")),
]:
    aws(operation, *name, *words)
    time.sleep(0.2)
refused("InvalidArgumentException", "split-shard", *name, "--shard-to-split", zero, "--new-starting-hash-key", "9")
aws("update-max-record-size", *by_arn, "--max-record-size-in-ki-b", "2048")
time.sleep(0.2)
# Versions of the CLI that are older than its library's model do not have this one yet.
if "Invalid choice" not in run("update-stream-record-distribution-strategy").stderr:
    aws("update-stream-record-distribution-strategy", *by_arn, "--record-distribution-strategy", "AUTO")
time.sleep(0.2)
aws("update-stream-mode", *by_arn, "--stream-mode-details", "StreamMode=ON_DEMAND")
time.sleep(0.2)
aws("update-stream-warm-throughput", *by_arn, "--warm-throughput-mi-bps", "10")
assert aws("describe-stream-summary", *name)["StreamDescriptionSummary"]["MaxRecordSizeInKiB"] == 2048

consumer = aws("register-stream-consumer", *by_arn, "--consumer-name", "c")["Consumer"]["ConsumerARN"]
assert aws("describe-stream-consumer", "--consumer-arn", consumer)["ConsumerDescription"]["ConsumerName"] == "c"
assert len(aws("list-stream-consumers", *by_arn)["Consumers"]) == 1
aws("deregister-stream-consumer", "--consumer-arn", consumer)
assert aws("describe-account-settings")["MinimumThroughputBillingCommitment"]["Status"]
aws("update-account-settings", "--minimum-throughput-billing-commitment", "Status=DISABLED")
aws("delete-stream", *name)
aws("wait", "stream-not-exists", *name)
refused("ResourceNotFoundException", "describe-stream", *name)

operations = {xform_name(name, "-") for name in botocore.loaders.Loader().load_service_model("kinesis", "service-2")["operations"]}
# The CLI itself leaves out what answers with a stream of events.
later = {name for name in operations if re.search("queue|channel|message", name)} | {"subscribe-to-shard"}
left_out = operations - later - done
assert not left_out, left_out
print(f"{len(done & operations)} operations through the command line")
