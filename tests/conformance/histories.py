"""Random histories of splits, merges and scalings with records between them, read as a consumer does: by iterators, from
parents to children. What must hold is the same in all of them. HISTORY=seed replays one. Needs boto3."""

import hashlib
import os
import random

from common import *

KEYS = 2**128


def start(shard):
    return int(shard["HashKeyRange"]["StartingHashKey"])


def end(shard):
    return int(shard["HashKeyRange"]["EndingHashKey"])


def parents(shard):
    return [shard[name] for name in ("ParentShardId", "AdjacentParentShardId") if name in shard]


def listed(name, **more):
    return k.list_shards(StreamName=name, **more)["Shards"]


def is_open(shard):
    return "EndingSequenceNumber" not in shard["SequenceNumberRange"]


def change(name, dice):
    """One change of the shards, chosen by the dice; nothing where it can't be."""
    shards = sorted(filter(is_open, listed(name)), key=start)
    kind = dice.choice(["split", "split", "merge", "scale"])
    if kind == "split" and len(shards) < 12:
        shard = dice.choice(shards)
        at = dice.randrange(start(shard) + 2, end(shard))
        k.split_shard(StreamName=name, ShardToSplit=shard["ShardId"], NewStartingHashKey=str(at))
    elif kind == "merge" and len(shards) > 1:
        place = dice.randrange(len(shards) - 1)
        one, other = shards[place]["ShardId"], shards[place + 1]["ShardId"]
        k.merge_shards(StreamName=name, ShardToMerge=one, AdjacentShardToMerge=other)
    elif kind == "scale":
        target = dice.randint(max(1, -(-len(shards) // 2)), min(12, len(shards) * 2))
        k.update_shard_count(StreamName=name, TargetShardCount=target, ScalingType="UNIFORM_SCALING")
    wait_active(name)


def put(name, dice, made):
    """Some records; each must land in the shard whose range has its key."""
    shards = {shard["ShardId"]: shard for shard in listed(name)}
    entries = [(f"key-{dice.randrange(8)}", b"%d" % (len(made) + n)) for n in range(dice.randint(1, 20))]
    answer = k.put_records(StreamName=name, Records=[{"PartitionKey": key, "Data": data} for key, data in entries])
    assert answer["FailedRecordCount"] == 0, answer
    for (key, data), record in zip(entries, answer["Records"]):
        shard = shards[record["ShardId"]]
        hashed = int.from_bytes(hashlib.md5(key.encode()).digest(), "big")
        assert start(shard) <= hashed <= end(shard) and is_open(shard), (key, shard)
        made.append((key, data, record["ShardId"], int(record["SequenceNumber"])))


def read(name):
    """Everything, shard by shard, as iterators and ChildShards lead."""
    roots = listed(name, ShardFilter={"Type": "AT_TRIM_HORIZON"})
    waiting, seen, records = [shard["ShardId"] for shard in roots], set(), []
    while waiting:
        shard = waiting.pop(0)
        if shard in seen:
            continue
        seen.add(shard)
        iterator = k.get_shard_iterator(StreamName=name, ShardId=shard, ShardIteratorType="TRIM_HORIZON")["ShardIterator"]
        while True:
            answer = k.get_records(ShardIterator=iterator)
            records += [(r["PartitionKey"], r["Data"], shard, int(r["SequenceNumber"])) for r in answer["Records"]]
            iterator = answer.get("NextShardIterator")
            children = answer.get("ChildShards", [])
            assert (iterator is None) == bool(children), answer
            if iterator is None:
                # A child is read when all of its parents are.
                waiting += [c["ShardId"] for c in children if set(c["ParentShards"]) <= seen]
                break
            if answer["MillisBehindLatest"] == 0 and not answer["Records"]:
                break
    return records, seen


def lineage_holds(name):
    shards = {shard["ShardId"]: shard for shard in listed(name)}
    now = sorted(filter(is_open, shards.values()), key=start)
    assert start(now[0]) == 0 and end(now[-1]) == KEYS - 1
    assert all(end(a) + 1 == start(b) for a, b in zip(now, now[1:])), "every key belongs to one shard"
    assert [s["ShardId"] for s in listed(name, ShardFilter={"Type": "AT_LATEST"})] == sorted(s["ShardId"] for s in now)
    for shard in shards.values():
        for parent in (shards[id] for id in parents(shard)):
            assert not is_open(parent) and parent["ShardId"] < shard["ShardId"]
            last = int(parent["SequenceNumberRange"]["EndingSequenceNumber"])
            assert int(shard["SequenceNumberRange"]["StartingSequenceNumber"]) > last, "numbers grow over generations"


def history(seed):
    dice, name, made = random.Random(seed), f"history-{seed}", []
    k.create_stream(StreamName=name, ShardCount=dice.randint(1, 4))
    wait_active(name)
    for _ in range(dice.randint(3, 8)):
        put(name, dice, made)
        change(name, dice)
        lineage_holds(name)
    put(name, dice, made)
    records, seen = read(name)
    assert seen == {shard["ShardId"] for shard in listed(name)}, "every shard is reached"
    assert sorted(records) == sorted(made), "every record once, where the answer said"
    for key in {key for key, *_ in made}:
        assert [r for r in records if r[0] == key] == [r for r in made if r[0] == key], f"{key} in order"
    k.delete_stream(StreamName=name)


@case
def every_history_of_shards_keeps_every_record_once_and_in_order():
    for seed in [int(os.environ["HISTORY"])] if "HISTORY" in os.environ else range(int(os.environ.get("HISTORIES", 20))):
        try:
            history(seed)
        except Exception:
            print(f"HISTORY={seed} replays it")
            raise


run()
