// The AWS SDK for JavaScript against a store: HTTP/2 over TLS, as it does by itself.
//
// KINESIN_DATA and KINESIN_ENDPOINT as in boto.py. Prints a line for each case and ends with 1 if one failed.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import {
  CreateStreamCommand, DeleteStreamCommand, DescribeStreamSummaryCommand, GetRecordsCommand, GetShardIteratorCommand,
  KinesisClient, ListShardsCommand, PutRecordCommand, PutRecordsCommand, RegisterStreamConsumerCommand,
  SplitShardCommand, SubscribeToShardCommand, paginateListStreams, waitUntilStreamExists,
} from "@aws-sdk/client-kinesis";

const data = process.env.KINESIN_DATA;
const credentials = readFileSync(`${data}/admin.credentials`, "utf8");
const value = (name) => credentials.match(new RegExp(`${name} *= *(.*)`))[1];
const client = new KinesisClient({
  endpoint: process.env.KINESIN_ENDPOINT,
  region: "local-1",
  credentials: { accessKeyId: value("aws_access_key_id"), secretAccessKey: value("aws_secret_access_key") },
  maxAttempts: 1,
});
const shard0 = "shardId-000000000000";
const stream = { StreamName: "node" };
const text = (bytes) => Buffer.from(bytes).toString();

async function active() {
  for (let n = 0; n < 200; n++) {
    const told = await client.send(new DescribeStreamSummaryCommand(stream));
    if (told.StreamDescriptionSummary.StreamStatus === "ACTIVE") return told.StreamDescriptionSummary;
    await new Promise((done) => setTimeout(done, 20));
  }
  throw new Error("the stream does not become active");
}

const cases = {
  async "a stream is made and waited for with the client's own waiter"() {
    await client.send(new CreateStreamCommand({ ...stream, ShardCount: 1 }));
    const waited = await waitUntilStreamExists({ client, maxWaitTime: 10, minDelay: 1 }, stream);
    assert.equal(waited.state, "SUCCESS");
  },
  async "records come back as they were put"() {
    const put = await client.send(new PutRecordCommand({ ...stream, Data: Buffer.from("one"), PartitionKey: "a" }));
    assert.match(put.SequenceNumber, /^\d{56}$/);
    const Records = ["two", "three"].map((Data) => ({ Data: Buffer.from(Data), PartitionKey: "a" }));
    const many = await client.send(new PutRecordsCommand({ ...stream, Records }));
    assert.equal(many.FailedRecordCount, 0);
    const { ShardIterator } = await client.send(
      new GetShardIteratorCommand({ ...stream, ShardId: shard0, ShardIteratorType: "TRIM_HORIZON" }));
    const got = await client.send(new GetRecordsCommand({ ShardIterator }));
    assert.deepEqual(got.Records.map((record) => text(record.Data)), ["one", "two", "three"]);
    assert.ok(Math.abs(got.Records[0].ApproximateArrivalTimestamp - Date.now()) < 60_000);
  },
  async "streams are listed page by page"() {
    const names = [];
    for await (const page of paginateListStreams({ client, pageSize: 1 }, {})) names.push(...page.StreamNames);
    assert.ok(names.includes("node"), names.join());
  },
  async "a subscription brings what is there, what comes, and the children of a split shard"() {
    const { StreamARN } = await active();
    const { Consumer } = await client.send(new RegisterStreamConsumerCommand({ StreamARN, ConsumerName: "c" }));
    const { EventStream } = await client.send(new SubscribeToShardCommand({
      ConsumerARN: Consumer.ConsumerARN, ShardId: shard0, StartingPosition: { Type: "TRIM_HORIZON" },
    }));
    const got = [];
    let children;
    for await (const { SubscribeToShardEvent: event } of EventStream) {
      got.push(...event.Records.map((record) => text(record.Data)));
      if (got.length === 3) {
        await client.send(new PutRecordCommand({ ...stream, Data: Buffer.from("four"), PartitionKey: "a" }));
      }
      if (got.length === 4 && !children) {
        children = [];
        await client.send(new SplitShardCommand(
          { ...stream, ShardToSplit: shard0, NewStartingHashKey: (2n ** 127n).toString() }));
      }
      if (event.ChildShards?.length) children = event.ChildShards;
    }
    assert.deepEqual(got, ["one", "two", "three", "four"]);
    assert.equal(children.length, 2);
    const { Shards } = await client.send(new ListShardsCommand(stream));
    assert.equal(Shards.length, 3);
  },
  async "errors are the exceptions that the client knows"() {
    const nothing = new DescribeStreamSummaryCommand({ StreamName: "nothing" });
    await assert.rejects(client.send(nothing), { name: "ResourceNotFoundException" });
  },
  async "the stream is removed"() {
    await active();
    await client.send(new DeleteStreamCommand({ ...stream, EnforceConsumerDeletion: true }));
  },
};

let failed = 0;
for (const [name, run] of Object.entries(cases)) {
  try {
    await run();
    console.log(`ok      ${name}`);
  } catch (error) {
    failed++;
    console.log(`FAILED  ${name}\n${error.stack}`);
  }
}
client.destroy();
process.exit(failed > 0 ? 1 : 0);
