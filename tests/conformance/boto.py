"""Every operation of the Kinesis API that the store does, through boto3: happy paths and bad inputs. What every request
has whatever it asks is in wire.py. Needs boto3.
"""

import concurrent.futures
import datetime
import time

from botocore.exceptions import EventStreamError

from common import *


@case
def streams_are_made_described_listed_and_deleted():
    k.create_stream(StreamName="life", ShardCount=2)
    described = k.describe_stream(StreamName="life")["StreamDescription"]
    assert (described["StreamStatus"], described["Shards"]) == ("CREATING", []), described
    message = refused("ResourceInUseException", k.create_stream, StreamName="life", ShardCount=1)
    assert message == f"Stream life under account {ACCOUNT} already exists."
    wait_active("life")
    described = k.describe_stream(StreamName="life")["StreamDescription"]
    assert [s["ShardId"] for s in described["Shards"]] == ["shardId-000000000000", "shardId-000000000001"]
    assert described["Shards"][0]["HashKeyRange"] == {
        "StartingHashKey": "0", "EndingHashKey": "170141183460469231731687303715884105727"}
    start = described["Shards"][0]["SequenceNumberRange"]["StartingSequenceNumber"]
    assert len(start) == 56 and start.startswith("49"), start
    one = k.describe_stream(StreamName="life", Limit=1)["StreamDescription"]
    assert one["HasMoreShards"] and len(one["Shards"]) == 1
    rest = k.describe_stream(StreamName="life", ExclusiveStartShardId="shardId-000000000000")["StreamDescription"]
    assert [s["ShardId"] for s in rest["Shards"]] == ["shardId-000000000001"]
    by_arn = k.describe_stream_summary(StreamARN=described["StreamARN"])["StreamDescriptionSummary"]
    assert by_arn["OpenShardCount"] == 2 and by_arn["RetentionPeriodHours"] == 24
    for n in range(3):
        k.create_stream(StreamName=f"list-{n}", ShardCount=1)
    listed = k.list_streams(Limit=2)
    assert listed["HasMoreStreams"] and len(listed["StreamNames"]) == 2
    names = [name for page in k.get_paginator("list_streams").paginate(PaginationConfig={"PageSize": 2}) for name in page["StreamNames"]]
    assert [name for name in names if name.startswith("list-")] == ["list-0", "list-1", "list-2"], names
    limits = k.describe_limits()
    assert limits["OpenShardCount"] >= 5 and limits["ShardLimit"] > 0
    k.delete_stream(StreamName="life")
    assert k.describe_stream(StreamName="life")["StreamDescription"]["StreamStatus"] == "DELETING"
    wait_gone("life")
    message = refused("ResourceNotFoundException", k.delete_stream, StreamName="life")
    assert message == f"Stream life under account {ACCOUNT} not found."
    message = refused("ValidationException", k.create_stream, StreamName="", ShardCount=0)
    assert message.startswith("3 validation errors detected: Value '' at 'streamName' failed"), message
    refused("InvalidArgumentException", k.describe_stream)
    refused("LimitExceededException", k.create_stream, StreamName="huge", ShardCount=100_000)


@case
def records_come_back_as_they_were_put():
    make("records", 2)
    put = k.put_record(StreamName="records", Data=b"\x00\xffone", PartitionKey="a")
    assert len(put["SequenceNumber"]) == 56 and "EncryptionType" not in put
    entries = [{"Data": f"r{n}".encode(), "PartitionKey": f"k{n}"} for n in range(100)]
    entries[0]["ExplicitHashKey"] = str(2**128 - 1)
    many = k.put_records(StreamName="records", Records=entries)
    assert many["FailedRecordCount"] == 0 and len(many["Records"]) == 100
    assert many["Records"][0]["ShardId"] == "shardId-000000000001"
    found = {}
    for shard in ("shardId-000000000000", "shardId-000000000001"):
        records, children = read_all("records", shard)
        assert children is None
        numbers = [int(r["SequenceNumber"]) for r in records]
        assert numbers == sorted(numbers) and len(set(numbers)) == len(numbers)
        found |= {r["SequenceNumber"]: (r["Data"], r["PartitionKey"]) for r in records}
    assert found.pop(put["SequenceNumber"]) == (b"\x00\xffone", "a")
    for entry, result in zip(entries, many["Records"]):
        assert found.pop(result["SequenceNumber"]) == (entry["Data"], entry["PartitionKey"])
    assert not found
    again = k.put_record(StreamName="records", Data=b"", PartitionKey="a", SequenceNumberForOrdering=put["SequenceNumber"])
    assert int(again["SequenceNumber"]) > int(put["SequenceNumber"])
    refused("InvalidArgumentException", k.put_record, StreamName="records", Data=b"", PartitionKey="a", SequenceNumberForOrdering="1")
    refused("InvalidArgumentException", k.put_record, StreamName="records", Data=b"", PartitionKey="a", ExplicitHashKey=str(2**128))
    refused("ValidationException", k.put_record, StreamName="records", Data=b"", PartitionKey="")
    refused("ValidationException", k.put_record, StreamName="records", Data=b"x" * (1048576 + 1), PartitionKey="a")
    refused("ValidationException", k.put_records, StreamName="records", Records=[])
    refused("ValidationException", k.put_records, StreamName="records", Records=entries * 6)
    refused("ResourceNotFoundException", k.put_record, StreamName="nowhere", Data=b"", PartitionKey="a")
    message = refused("ValidationException", k.put_records, StreamName="records", Records=[entries[0], {"Data": b"x"}])
    assert "'records.2.member.partitionKey'" in message, message


@case
def iterators_of_all_five_types_start_where_they_should():
    make("iterators")
    shard = "shardId-000000000000"
    latest = k.get_shard_iterator(StreamName="iterators", ShardId=shard, ShardIteratorType="LATEST")["ShardIterator"]
    before = datetime.datetime.now(datetime.timezone.utc)
    time.sleep(0.05)
    numbers = [k.put_record(StreamName="iterators", Data=b"%d" % n, PartitionKey="a")["SequenceNumber"] for n in range(4)]

    def data_of(kind, **more):
        time.sleep(0.25)
        iterator = k.get_shard_iterator(StreamName="iterators", ShardId=shard, ShardIteratorType=kind, **more)["ShardIterator"]
        return b"".join(r["Data"] for r in k.get_records(ShardIterator=iterator)["Records"])

    assert data_of("TRIM_HORIZON") == b"0123"
    assert data_of("LATEST") == b""
    assert data_of("AT_SEQUENCE_NUMBER", StartingSequenceNumber=numbers[1]) == b"123"
    assert data_of("AFTER_SEQUENCE_NUMBER", StartingSequenceNumber=numbers[1]) == b"23"
    assert data_of("AFTER_SEQUENCE_NUMBER", StartingSequenceNumber=numbers[3]) == b""
    assert data_of("AT_TIMESTAMP", Timestamp=before) == b"0123"
    start = k.describe_stream(StreamName="iterators")["StreamDescription"]["Shards"][0]["SequenceNumberRange"]["StartingSequenceNumber"]
    assert data_of("AT_SEQUENCE_NUMBER", StartingSequenceNumber=start) == b"0123"
    assert data_of("AFTER_SEQUENCE_NUMBER", StartingSequenceNumber=start) == b"0123"
    time.sleep(0.3)
    answer = k.get_records(ShardIterator=latest, Limit=3)
    assert b"".join(r["Data"] for r in answer["Records"]) == b"012", "a LATEST iterator is fixed when it is made"
    answer = k.get_records(ShardIterator=f'"{answer["NextShardIterator"]}"')
    assert b"".join(r["Data"] for r in answer["Records"]) == b"3"
    iterator = lambda **more: k.get_shard_iterator(StreamName="iterators", **{"ShardId": shard, **more})
    refused("InvalidArgumentException", iterator, ShardIteratorType="AT_SEQUENCE_NUMBER")
    refused("InvalidArgumentException", iterator, ShardIteratorType="LATEST", StartingSequenceNumber=numbers[0])
    refused("InvalidArgumentException", iterator, ShardIteratorType="AT_SEQUENCE_NUMBER", StartingSequenceNumber="12")
    refused("InvalidArgumentException", iterator, ShardIteratorType="AT_TIMESTAMP", Timestamp=before + datetime.timedelta(hours=1))
    refused("InvalidArgumentException", iterator, ShardIteratorType="AT_TIMESTAMP")
    refused("ValidationException", iterator, ShardIteratorType="SOMEWHERE")
    refused("ResourceNotFoundException", iterator, ShardIteratorType="LATEST", ShardId="shardId-000000000009")
    refused("ResourceNotFoundException", iterator, ShardIteratorType="LATEST", ShardId="nothing")
    assert refused("InvalidArgumentException", k.get_records, ShardIterator="AAAA") == "Invalid ShardIterator."
    refused("ValidationException", k.get_records, ShardIterator=latest, Limit=10001)


@case
def a_shard_over_its_rate_throttles_its_own_records_only():
    make("rates", 2)
    low, high = "0", str(2**128 - 1)
    entry = lambda key: {"Data": b"x" * 300_000, "PartitionKey": "a", "ExplicitHashKey": key}
    answer = k.put_records(StreamName="rates", Records=[entry(low)] * 5 + [entry(high)])
    failed = [r for r in answer["Records"] if "ErrorCode" in r]
    assert answer["FailedRecordCount"] == len(failed) == 2, answer["FailedRecordCount"]
    assert failed[0] == {
        "ErrorCode": "ProvisionedThroughputExceededException",
        "ErrorMessage": f"Rate exceeded for shard shardId-000000000000 in stream rates under account {ACCOUNT}."}
    assert "SequenceNumber" in answer["Records"][5]
    iterator = k.get_shard_iterator(StreamName="rates", ShardId="shardId-000000000001", ShardIteratorType="LATEST")["ShardIterator"]
    for _ in range(5):
        iterator = k.get_records(ShardIterator=iterator)["NextShardIterator"]
    message = refused("ProvisionedThroughputExceededException", k.get_records, ShardIterator=iterator)
    assert message == f"Rate exceeded for shard shardId-000000000001 in stream rates under account {ACCOUNT}."


@case
def shards_split_and_merge_and_readers_go_on_in_the_children():
    make("shards")
    parent = "shardId-000000000000"
    first = k.put_record(StreamName="shards", Data=b"1", PartitionKey="a")["SequenceNumber"]
    split = lambda **more: k.split_shard(**{"StreamName": "shards", "ShardToSplit": parent, "NewStartingHashKey": str(2**127), **more})
    refused("InvalidArgumentException", split, NewStartingHashKey="1")
    refused("ResourceNotFoundException", split, ShardToSplit="shardId-000000000007")
    refused("ValidationException", split, NewStartingHashKey="01")
    split()
    assert refused("ResourceInUseException", split, ShardToSplit="shardId-000000000001", NewStartingHashKey="9").endswith("UPDATING")
    wait_active("shards")
    assert "already been merged or split" in refused("InvalidArgumentException", split)
    second = k.put_record(StreamName="shards", Data=b"2", PartitionKey="a")
    assert int(second["SequenceNumber"]) > int(first) and second["ShardId"] != parent
    records, children = read_all("shards", parent)
    assert [r["Data"] for r in records] == [b"1"]
    assert [c["ShardId"] for c in children] == ["shardId-000000000001", "shardId-000000000002"]
    assert children[0]["ParentShards"] == [parent]
    records, _ = read_all("shards", second["ShardId"])
    assert [r["Data"] for r in records] == [b"2"]
    merge = lambda a, b: k.merge_shards(StreamName="shards", ShardToMerge=a, AdjacentShardToMerge=b)
    refused("InvalidArgumentException", lambda: merge("shardId-000000000002", "shardId-000000000001"))
    merge("shardId-000000000001", "shardId-000000000002")
    wait_active("shards")
    time.sleep(1.5)
    shards = {s["ShardId"]: s for s in k.list_shards(StreamName="shards")["Shards"]}
    assert len(shards) == 4, "closed shards stay listed, with records or without"
    assert shards["shardId-000000000003"]["AdjacentParentShardId"] == "shardId-000000000002"
    starts = [int(shards[s]["SequenceNumberRange"]["StartingSequenceNumber"]) for s in sorted(shards)]
    assert starts == sorted(starts)
    assert "EndingSequenceNumber" in shards[parent]["SequenceNumberRange"]
    ids = lambda **filter: [s["ShardId"][-1] for s in k.list_shards(StreamName="shards", ShardFilter=filter)["Shards"]]
    assert ids(Type="AT_LATEST") == ["3"]
    assert ids(Type="AT_TRIM_HORIZON") == ["0"]
    assert ids(Type="FROM_TRIM_HORIZON") == ["0", "1", "2", "3"]
    assert ids(Type="AFTER_SHARD_ID", ShardId="shardId-000000000001") == ["2", "3"]
    assert ids(Type="AT_TIMESTAMP", Timestamp=datetime.datetime.now(datetime.timezone.utc)) == ["3"]
    refused("InvalidArgumentException", k.list_shards, StreamName="shards", ShardFilter={"Type": "AT_TIMESTAMP"})
    page = k.list_shards(StreamName="shards", MaxResults=3)
    assert [s["ShardId"][-1] for s in k.list_shards(NextToken=page["NextToken"])["Shards"]] == ["3"]
    refused("InvalidArgumentException", k.list_shards, NextToken=page["NextToken"], StreamName="shards")
    more = {"NextToken": page["NextToken"], "ExclusiveStartShardId": "shardId-000000000000"}
    refused("InvalidArgumentException", k.list_shards, **more)
    refused("InvalidArgumentException", k.list_shards, NextToken="x")
    made = k.describe_stream_summary(StreamName="shards")["StreamDescriptionSummary"]["StreamCreationTimestamp"]
    assert k.list_shards(StreamName="shards", StreamCreationTimestamp=made)["Shards"]
    refused("ResourceNotFoundException", k.list_shards, StreamName="shards", StreamCreationTimestamp=1)


@case
def shard_counts_are_updated_evenly():
    make("scale", 2)
    for target in (4, 3, 2, 1):
        answer = k.update_shard_count(StreamName="scale", TargetShardCount=target, ScalingType="UNIFORM_SCALING")
        assert answer["TargetShardCount"] == target
        wait_active("scale")
        shards = k.list_shards(StreamName="scale", ShardFilter={"Type": "AT_LATEST"})["Shards"]
        sizes = [int(s["HashKeyRange"]["EndingHashKey"]) - int(s["HashKeyRange"]["StartingHashKey"]) + 1 for s in shards]
        assert len(shards) == target and max(sizes) - min(sizes) <= 1 and sum(sizes) == 2**128
    refused("InvalidArgumentException", k.update_shard_count, StreamName="scale", TargetShardCount=3, ScalingType="UNIFORM_SCALING")
    refused("ValidationException", k.update_shard_count, StreamName="scale", TargetShardCount=1, ScalingType="X")


@case
def tags_and_policies_are_kept():
    arn = make("tags", Tags={"made": "with"})
    k.add_tags_to_stream(StreamName="tags", Tags={"a": "1", "b": ""})
    answer = k.list_tags_for_stream(StreamName="tags", Limit=2)
    assert answer["Tags"] == [{"Key": "a", "Value": "1"}, {"Key": "b", "Value": ""}] and answer["HasMoreTags"]
    k.remove_tags_from_stream(StreamName="tags", TagKeys=["a", "none"])
    k.tag_resource(ResourceARN=arn, Tags={"c": "3"})
    k.untag_resource(ResourceARN=arn, TagKeys=["b"])
    assert k.list_tags_for_resource(ResourceARN=arn)["Tags"] == [{"Key": "c", "Value": "3"}, {"Key": "made", "Value": "with"}]
    refused("ValidationException", k.add_tags_to_stream, StreamName="tags", Tags={})
    refused("InvalidArgumentException", k.add_tags_to_stream, StreamName="tags", Tags={f"k{n}": "" for n in range(60)})
    refused("ResourceNotFoundException", k.list_tags_for_resource, ResourceARN=arn + "x")
    assert k.get_resource_policy(ResourceARN=arn)["Policy"] == "{}"
    k.put_resource_policy(ResourceARN=arn, Policy='{"Version":"2012-10-17"}')
    assert k.get_resource_policy(ResourceARN=arn)["Policy"] == '{"Version":"2012-10-17"}'
    k.delete_resource_policy(ResourceARN=arn)
    refused("ResourceNotFoundException", k.delete_resource_policy, ResourceARN=arn)


@case
def retention_and_settings_change():
    arn = make("settings")
    k.increase_stream_retention_period(StreamName="settings", RetentionPeriodHours=48)
    wait_active("settings")
    refused("InvalidArgumentException", k.increase_stream_retention_period, StreamName="settings", RetentionPeriodHours=24)
    refused("InvalidArgumentException", k.increase_stream_retention_period, StreamName="settings", RetentionPeriodHours=8761)
    k.decrease_stream_retention_period(StreamName="settings", RetentionPeriodHours=24)
    wait_active("settings")
    answer = k.enable_enhanced_monitoring(StreamName="settings", ShardLevelMetrics=["ALL"])
    assert answer["CurrentShardLevelMetrics"] == [] and len(answer["DesiredShardLevelMetrics"]) == 7
    wait_active("settings")
    answer = k.disable_enhanced_monitoring(StreamName="settings", ShardLevelMetrics=["IncomingBytes"])
    assert len(answer["DesiredShardLevelMetrics"]) == 6
    wait_active("settings")
    k.start_stream_encryption(StreamName="settings", EncryptionType="KMS", KeyId="alias/aws/kinesis")
    wait_active("settings")
    assert k.put_record(StreamName="settings", Data=b"", PartitionKey="a")["EncryptionType"] == "KMS"
    k.stop_stream_encryption(StreamName="settings", EncryptionType="KMS", KeyId="alias/aws/kinesis")
    wait_active("settings")
    k.update_stream_mode(StreamARN=arn, StreamModeDetails={"StreamMode": "ON_DEMAND"})
    wait_active("settings")
    k.update_max_record_size(StreamARN=arn, MaxRecordSizeInKiB=2048)
    wait_active("settings")
    k.put_record(StreamName="settings", Data=b"x" * 1_500_000, PartitionKey="a")
    summary = k.describe_stream_summary(StreamName="settings")["StreamDescriptionSummary"]
    assert summary["StreamModeDetails"] == {"StreamMode": "ON_DEMAND"} and summary["MaxRecordSizeInKiB"] == 2048
    assert k.describe_account_settings()["MinimumThroughputBillingCommitment"]["Status"] == "DISABLED"
    refused("DryRunOperationException", k.put_record, StreamName="settings", Data=b"", PartitionKey="a", DryRun=True)


@case
def consumers_are_registered_and_subscribe():
    arn = make("consumers")
    consumer = k.register_stream_consumer(StreamARN=arn, ConsumerName="c")["Consumer"]
    assert consumer["ConsumerStatus"] == "CREATING"
    refused("ResourceInUseException", k.register_stream_consumer, StreamARN=arn, ConsumerName="c")
    time.sleep(0.2)
    described = k.describe_stream_consumer(ConsumerARN=consumer["ConsumerARN"])["ConsumerDescription"]
    assert (described["ConsumerStatus"], described["StreamARN"]) == ("ACTIVE", arn)
    assert [c["ConsumerName"] for c in k.list_stream_consumers(StreamARN=arn)["Consumers"]] == ["c"]
    refused("ResourceInUseException", k.delete_stream, StreamARN=arn)
    k.put_record(StreamName="consumers", Data=b"before", PartitionKey="a")
    events = k.subscribe_to_shard(
        ConsumerARN=consumer["ConsumerARN"], ShardId="shardId-000000000000", StartingPosition={"Type": "TRIM_HORIZON"})["EventStream"]
    got = []
    for event in events:
        event = event["SubscribeToShardEvent"]
        got += [r["Data"] for r in event["Records"]]
        if got == [b"before"]:
            k.put_record(StreamName="consumers", Data=b"after", PartitionKey="a")
            reached = event["ContinuationSequenceNumber"]
        if len(got) == 2:
            break
    assert got == [b"before", b"after"]
    events.close()
    events = k.subscribe_to_shard(
        ConsumerARN=consumer["ConsumerARN"], ShardId="shardId-000000000000",
        StartingPosition={"Type": "AFTER_SEQUENCE_NUMBER", "SequenceNumber": reached})["EventStream"]
    k.split_shard(StreamName="consumers", ShardToSplit="shardId-000000000000", NewStartingHashKey=str(2**127))
    all_events = [event["SubscribeToShardEvent"] for event in events]
    assert [r["Data"] for event in all_events for r in event["Records"]] == [b"after"]
    assert len(all_events[-1]["ChildShards"]) == 2
    k.deregister_stream_consumer(ConsumerARN=consumer["ConsumerARN"])
    refused("ResourceNotFoundException", k.describe_stream_consumer, ConsumerARN=consumer["ConsumerARN"])


@case
def a_consumer_that_is_registered_anew_is_another_one_and_the_old_subscription_ends():
    arn = make("anew")
    first = k.register_stream_consumer(StreamARN=arn, ConsumerName="c")["Consumer"]
    time.sleep(0.2)

    def subscribe(consumer):
        return k.subscribe_to_shard(
            ConsumerARN=consumer["ConsumerARN"], ShardId="shardId-000000000000",
            StartingPosition={"Type": "TRIM_HORIZON"})["EventStream"]

    old = subscribe(first)
    k.deregister_stream_consumer(ConsumerARN=first["ConsumerARN"])
    # An ARN tells seconds.
    time.sleep(1)
    second = k.register_stream_consumer(StreamARN=arn, ConsumerName="c")["Consumer"]
    time.sleep(0.2)
    new = subscribe(second)
    k.put_record(StreamName="anew", Data=b"x", PartitionKey="a")
    assert next(event for event in new if event["SubscribeToShardEvent"]["Records"])
    new.close()
    try:
        assert not [event for event in old if event["SubscribeToShardEvent"]["Records"]]
        raise AssertionError("the old one ended as if there were no more records")
    except EventStreamError as error:
        assert error.response["Error"]["Code"] == "ResourceNotFoundException", error


@case
def a_large_answer_has_all_that_fits_and_goes_on_where_it_ended():
    make("large", MaxRecordSizeInKiB=10240)
    wait_active("large")
    sent = []
    for n, size in enumerate([900_000] * 14 + [10] * 300):
        record = bytes([n % 256]) * size
        while True:
            try:
                k.put_record(StreamName="large", Data=record, PartitionKey="a")
                break
            except k.exceptions.ProvisionedThroughputExceededException:
                time.sleep(0.1)
        sent.append(record)
    iterator = k.get_shard_iterator(StreamName="large", ShardId="0", ShardIteratorType="TRIM_HORIZON")["ShardIterator"]
    first = k.get_records(ShardIterator=iterator)
    size = sum(len(r["Data"]) + 1 for r in first["Records"])
    # As many as 10 MiB have room for, and told that there are more.
    assert len(first["Records"]) == 11 and size <= 10 << 20 and first["MillisBehindLatest"] > 0, (len(first["Records"]), size)
    refused("ProvisionedThroughputExceededException", k.get_records, ShardIterator=first["NextShardIterator"])
    time.sleep(5.2)
    got, iterator = first["Records"], first["NextShardIterator"]
    while len(got) < len(sent):
        answer = k.get_records(ShardIterator=iterator)
        got, iterator = got + answer["Records"], answer["NextShardIterator"]
        time.sleep(0.21)
    assert [r["Data"] for r in got] == sent
    time.sleep(2)
    assert k.get_records(ShardIterator=iterator)["MillisBehindLatest"] == 0


@case
def a_second_subscription_waits_five_seconds_and_then_takes_over():
    arn = make("turns")
    consumer = k.register_stream_consumer(StreamARN=arn, ConsumerName="c")["Consumer"]["ConsumerARN"]
    more = {"ConsumerARN": consumer, "ShardId": "shardId-000000000000", "StartingPosition": {"Type": "TRIM_HORIZON"}}
    first = k.subscribe_to_shard(**more)["EventStream"]
    message = refused("ResourceInUseException", k.subscribe_to_shard, **more)
    assert "Consumer c of stream turns" in message, message
    time.sleep(5.1)
    second = k.subscribe_to_shard(**more)["EventStream"]
    k.put_record(StreamName="turns", Data=b"x", PartitionKey="a")
    # The first is told that it ends; what comes next is the second's.
    try:
        assert all(not event["SubscribeToShardEvent"]["Records"] for event in first)
        raise AssertionError("the first subscription ended without a word")
    except EventStreamError as error:
        assert "ResourceInUseException" in str(error) and "again" in str(error), error
    records = next(r for event in second if (r := event["SubscribeToShardEvent"]["Records"]))
    assert records[0]["Data"] == b"x"
    second.close()


@case
def a_consumer_gets_two_mebibytes_a_second():
    arn = make("fanned")
    k.put_records(StreamName="fanned", Records=[{"Data": b"x" * 1000, "PartitionKey": "a"}] * 500)
    for _ in range(7):
        time.sleep(0.6)
        k.put_records(StreamName="fanned", Records=[{"Data": b"x" * 1000, "PartitionKey": "a"}] * 500)
    consumer = k.register_stream_consumer(StreamARN=arn, ConsumerName="c")["Consumer"]["ConsumerARN"]
    more = {"ConsumerARN": consumer, "ShardId": "shardId-000000000000", "StartingPosition": {"Type": "TRIM_HORIZON"}}
    started, got = time.time(), 0
    for event in k.subscribe_to_shard(**more)["EventStream"]:
        got += sum(len(r["Data"]) for r in event["SubscribeToShardEvent"]["Records"])
        if event["SubscribeToShardEvent"]["MillisBehindLatest"] == 0:
            break
    # 2 MiB at once and 2 MiB a second after it; the last event comes before its own bytes are waited for.
    assert got > 3_000_000 and time.time() - started > (got - (3 << 20)) / (2 << 20), (got, time.time() - started)


@case
def accounts_and_regions_see_their_own_streams_only():
    make("shared")
    abroad = client(region="eu-west-1")
    others = client(profile="other")
    for theirs, arn in [(abroad, f"arn:aws:kinesis:eu-west-1:{ACCOUNT}:stream/shared"),
                        (others, f"arn:aws:kinesis:local-1:{OTHER_ACCOUNT}:stream/shared")]:
        assert theirs.list_streams()["StreamNames"] == []
        refused("ResourceNotFoundException", theirs.describe_stream_summary, StreamName="shared")
        theirs.create_stream(StreamName="shared", ShardCount=2)
        time.sleep(0.3)
        described = theirs.describe_stream(StreamName="shared")["StreamDescription"]
        told = (described["StreamARN"], described["StreamName"], len(described["Shards"]))
        assert told == (arn, "shared", 2), told
        theirs.put_record(StreamARN=arn, Data=b"theirs", PartitionKey="a")
        assert [s["StreamARN"] for s in theirs.list_streams()["StreamSummaries"]] == [arn]
        refused("ResourceNotFoundException", k.describe_stream, StreamARN=arn)
        iterator = theirs.get_shard_iterator(StreamName="shared", ShardId="0", ShardIteratorType="TRIM_HORIZON")["ShardIterator"]
        refused("ResourceNotFoundException", k.get_records, ShardIterator=iterator)
    assert read_all("shared", "shardId-000000000000")[0] == []
    k.delete_stream(StreamName="shared")
    assert abroad.list_streams()["StreamNames"] == others.list_streams()["StreamNames"] == ["shared"]


@case
def the_shards_of_a_stream_in_on_demand_mode_are_not_its_owners_business():
    k.create_stream(StreamName="demand", StreamModeDetails={"StreamMode": "ON_DEMAND"})
    wait_active("demand")
    assert len(k.list_shards(StreamName="demand")["Shards"]) == 4
    told = refused("ValidationException", k.update_shard_count, StreamName="demand", TargetShardCount=8, ScalingType="UNIFORM_SCALING")
    assert "is in On-Demand mode" in told
    refused("ValidationException", k.split_shard, StreamName="demand", ShardToSplit="shardId-000000000000", NewStartingHashKey="9")
    k.update_stream_mode(StreamARN=f"arn:aws:kinesis:local-1:{ACCOUNT}:stream/demand", StreamModeDetails={"StreamMode": "PROVISIONED"})
    wait_active("demand")
    k.split_shard(StreamName="demand", ShardToSplit="shardId-000000000000", NewStartingHashKey="9")


@case
def account_settings_are_kept():
    def status(answer):
        return answer["MinimumThroughputBillingCommitment"]["Status"]
    assert status(k.describe_account_settings()) == "DISABLED"
    assert status(k.update_account_settings(MinimumThroughputBillingCommitment={"Status": "ENABLED"})) == "ENABLED"
    told = k.describe_account_settings()["MinimumThroughputBillingCommitment"]
    assert told["EarliestAllowedEndAt"] - told["StartedAt"] == datetime.timedelta(days=1)
    assert status(k.update_account_settings(MinimumThroughputBillingCommitment={"Status": "DISABLED"})) == "ENABLED_UNTIL_EARLIEST_ALLOWED_END"
    assert status(client(region="eu-west-1").describe_account_settings()) == "DISABLED"


@case
def warm_throughput_is_kept_and_records_without_keys_are_spread():
    arn = make("warm", 4)
    answer = k.update_stream_warm_throughput(StreamARN=arn, WarmThroughputMiBps=10)
    assert (answer["StreamName"], answer["WarmThroughput"]["TargetMiBps"]) == ("warm", 10), answer
    wait_active("warm")
    assert k.describe_stream_summary(StreamName="warm")["StreamDescriptionSummary"]["WarmThroughput"]["TargetMiBps"] == 10
    refused("ValidationException", k.update_stream_warm_throughput, StreamName="warm", WarmThroughputMiBps=-1)
    refused("ValidationException", k.put_record, StreamName="warm", Data=b"x")
    k.update_stream_record_distribution_strategy(StreamARN=arn, RecordDistributionStrategy="AUTO")
    wait_active("warm")
    put = k.put_records(StreamName="warm", Records=[{"Data": b"x"}] * 100)
    assert put["FailedRecordCount"] == 0 and len({record["ShardId"] for record in put["Records"]}) == 4
    refused("ValidationException", k.update_stream_record_distribution_strategy, StreamARN=arn, RecordDistributionStrategy="ANY")


@case
def what_is_not_there_is_not_found_by_any_operation():
    arn = f"arn:aws:kinesis:local-1:{ACCOUNT}:stream/nowhere"
    by_name, by_arn, resource = {"StreamName": "nowhere"}, {"StreamARN": arn}, {"ResourceARN": arn}
    key = {"EncryptionType": "KMS", "KeyId": "alias/x"}
    for call, request in [
        (k.decrease_stream_retention_period, {**by_name, "RetentionPeriodHours": 24}),
        (k.deregister_stream_consumer, {**by_arn, "ConsumerName": "c"}),
        (k.disable_enhanced_monitoring, {**by_name, "ShardLevelMetrics": ["ALL"]}),
        (k.enable_enhanced_monitoring, {**by_name, "ShardLevelMetrics": ["ALL"]}),
        (k.get_resource_policy, resource),
        (k.list_stream_consumers, by_arn),
        (k.list_tags_for_stream, by_name),
        (k.put_resource_policy, {**resource, "Policy": "{}"}),
        (k.remove_tags_from_stream, {**by_name, "TagKeys": ["a"]}),
        (k.start_stream_encryption, {**by_name, **key}),
        (k.stop_stream_encryption, {**by_name, **key}),
        (k.tag_resource, {**resource, "Tags": {"a": "b"}}),
        (k.untag_resource, {**resource, "TagKeys": ["a"]}),
        (k.update_max_record_size, {**by_arn, "MaxRecordSizeInKiB": 2048}),
        (k.update_stream_mode, {**by_arn, "StreamModeDetails": {"StreamMode": "ON_DEMAND"}}),
    ]:
        assert "nowhere" in refused("ResourceNotFoundException", call, **request), call
    refused("ValidationException", k.list_streams, Limit=0)
    refused("ValidationException", k.update_account_settings, MinimumThroughputBillingCommitment={"Status": "MAYBE"})


@case
def many_writers_lose_nothing():
    make("parallel", 4)
    def write(n):
        mine = client()
        entries = [{"Data": b"%d" % m, "PartitionKey": f"{n}-{m}"} for m in range(50)]
        return sum("SequenceNumber" in r for _ in range(8) for r in mine.put_records(StreamName="parallel", Records=entries)["Records"])
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        stored = sum(pool.map(write, range(4)))
    got = sum(len(read_all("parallel", f"shardId-{n:012}")[0]) for n in range(4))
    assert got == stored > 0, (got, stored)


@case
def every_operation_was_done_and_refused():
    # Queues and channels come later.
    later = ("Queue", "Channel")
    operations = {name for name in k.meta.service_model.operation_names if not any(word in name for word in later)}
    assert len(operations) == 40, sorted(operations)
    assert done >= operations, f"never done: {sorted(operations - done)}"
    # Those without a member that could be wrong: boto3 alone sends nothing bad, model.py and wire.py do.
    harmless = {"DescribeLimits", "DescribeAccountSettings"}
    assert denied >= operations - harmless, f"never refused: {sorted(operations - harmless - denied)}"


run()
