// The AWS SDKs for Go, versions 2 and 1, against a store: streams, records, shards, subscriptions.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	v1aws "github.com/aws/aws-sdk-go/aws"
	v1err "github.com/aws/aws-sdk-go/aws/awserr"
	v1session "github.com/aws/aws-sdk-go/aws/session"
	v1 "github.com/aws/aws-sdk-go/service/kinesis"
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/kinesis"
	"github.com/aws/aws-sdk-go-v2/service/kinesis/types"
)

const records = 50

func must(err error) {
	if err != nil {
		fmt.Println("FAILED:", err)
		os.Exit(1)
	}
}

func check(yes bool, what string, details ...any) {
	if !yes {
		must(fmt.Errorf("%s: %v", what, details))
	}
}

func said(what string) { fmt.Println("  ok: go:", what) }

// Everything that version 2 does with one stream.
func version2(ctx context.Context, name string) {
	endpoint := aws.EndpointResolverWithOptionsFunc(
		func(service, region string, options ...interface{}) (aws.Endpoint, error) {
			return aws.Endpoint{URL: os.Getenv("KINESIN_ENDPOINT"), SigningRegion: region}, nil
		})
	loaded, err := config.LoadDefaultConfig(ctx, config.WithEndpointResolverWithOptions(endpoint))
	must(err)
	client := kinesis.NewFromConfig(loaded)
	_, err = client.CreateStream(ctx, &kinesis.CreateStreamInput{StreamName: &name, ShardCount: aws.Int32(1)})
	must(err)
	must(kinesis.NewStreamExistsWaiter(client).Wait(ctx,
		&kinesis.DescribeStreamInput{StreamName: &name}, time.Minute))
	_, err = client.CreateStream(ctx, &kinesis.CreateStreamInput{StreamName: &name, ShardCount: aws.Int32(1)})
	var inUse *types.ResourceInUseException
	check(errors.As(err, &inUse), "a second stream of the name is refused", err)
	said("a stream is made, waited for, and not made twice")

	var entries []types.PutRecordsRequestEntry
	for i := 0; i < records; i++ {
		entries = append(entries, types.PutRecordsRequestEntry{
			Data: []byte(fmt.Sprintf("go %d", i)), PartitionKey: aws.String(fmt.Sprint(i % 5))})
	}
	put, err := client.PutRecords(ctx, &kinesis.PutRecordsInput{StreamName: &name, Records: entries})
	must(err)
	check(*put.FailedRecordCount == 0, "no record fails", *put.FailedRecordCount)
	shard := "shardId-000000000000"
	iterator, err := client.GetShardIterator(ctx, &kinesis.GetShardIteratorInput{
		StreamName: &name, ShardId: &shard, ShardIteratorType: types.ShardIteratorTypeTrimHorizon})
	must(err)
	got, err := client.GetRecords(ctx, &kinesis.GetRecordsInput{ShardIterator: iterator.ShardIterator})
	must(err)
	check(len(got.Records) == records, "all records come back", len(got.Records))
	for i, record := range got.Records {
		check(bytes.Equal(record.Data, entries[i].Data), "in order", i, string(record.Data))
		check(*record.SequenceNumber == *put.Records[i].SequenceNumber, "with their numbers", i)
	}
	said("records are put and read")
	subscription(ctx, client, name, shard)
	_, err = client.SplitShard(ctx, &kinesis.SplitShardInput{StreamName: &name, ShardToSplit: &shard,
		NewStartingHashKey: aws.String("170141183460469231731687303715884105728")})
	must(err)
	must(kinesis.NewStreamExistsWaiter(client).Wait(ctx,
		&kinesis.DescribeStreamInput{StreamName: &name}, time.Minute))
	listed, err := client.ListShards(ctx, &kinesis.ListShardsInput{StreamName: &name})
	must(err)
	check(len(listed.Shards) == 3, "a shard is divided", len(listed.Shards))
	_, err = client.DeleteStream(ctx, &kinesis.DeleteStreamInput{
		StreamName: &name, EnforceConsumerDeletion: aws.Bool(true)})
	must(err)
	must(kinesis.NewStreamNotExistsWaiter(client).Wait(ctx,
		&kinesis.DescribeStreamInput{StreamName: &name}, time.Minute))
	said("a shard is divided, and the stream removed")
}

func subscription(ctx context.Context, client *kinesis.Client, name, shard string) {
	described, err := client.DescribeStreamSummary(ctx, &kinesis.DescribeStreamSummaryInput{StreamName: &name})
	must(err)
	consumer, err := client.RegisterStreamConsumer(ctx, &kinesis.RegisterStreamConsumerInput{
		StreamARN: described.StreamDescriptionSummary.StreamARN, ConsumerName: aws.String("go")})
	must(err)
	arn := consumer.Consumer.ConsumerARN
	for {
		is, err := client.DescribeStreamConsumer(ctx, &kinesis.DescribeStreamConsumerInput{ConsumerARN: arn})
		must(err)
		if is.ConsumerDescription.ConsumerStatus == types.ConsumerStatusActive {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	subscribed, err := client.SubscribeToShard(ctx, &kinesis.SubscribeToShardInput{
		ConsumerARN: arn, ShardId: &shard,
		StartingPosition: &types.StartingPosition{Type: types.ShardIteratorTypeTrimHorizon}})
	must(err)
	stream := subscribed.GetStream()
	defer stream.Close()
	seen := 0
	for seen < records {
		event, open := <-stream.Events()
		check(open, "the subscription stays open", stream.Err())
		part, is := event.(*types.SubscribeToShardEventStreamMemberSubscribeToShardEvent)
		check(is, "an event of records", event)
		seen += len(part.Value.Records)
	}
	check(seen == records, "every record is delivered once", seen)
	said("a subscription delivers every record")
}

// Version 1, as older programs have it.
func version1(name string) {
	client := v1.New(v1session.Must(v1session.NewSession()),
		v1aws.NewConfig().WithEndpoint(os.Getenv("KINESIN_ENDPOINT")))
	_, err := client.CreateStream(&v1.CreateStreamInput{StreamName: &name, ShardCount: v1aws.Int64(1)})
	must(err)
	must(client.WaitUntilStreamExists(&v1.DescribeStreamInput{StreamName: &name}))
	put, err := client.PutRecord(&v1.PutRecordInput{
		StreamName: &name, Data: []byte("one"), PartitionKey: v1aws.String("k")})
	must(err)
	iterator, err := client.GetShardIterator(&v1.GetShardIteratorInput{StreamName: &name, ShardId: put.ShardId,
		ShardIteratorType: v1aws.String("AT_SEQUENCE_NUMBER"), StartingSequenceNumber: put.SequenceNumber})
	must(err)
	got, err := client.GetRecords(&v1.GetRecordsInput{ShardIterator: iterator.ShardIterator})
	must(err)
	check(len(got.Records) == 1 && string(got.Records[0].Data) == "one", "the record comes back", got)
	_, err = client.DescribeStream(&v1.DescribeStreamInput{StreamName: v1aws.String("not-there")})
	var failed v1err.Error
	check(errors.As(err, &failed) && failed.Code() == v1.ErrCodeResourceNotFoundException, "no such stream", err)
	_, err = client.DeleteStream(&v1.DeleteStreamInput{StreamName: &name})
	must(err)
	said("version 1 puts, reads, and knows the errors")
}

func main() {
	version2(context.Background(), "go-two")
	version1("go-one")
}
