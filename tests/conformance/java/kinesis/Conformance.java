// AWS's own tools for Java against a store, unchanged: the SDK 2, the Kinesis Producer Library (KPL, with its daemon) and the
// Kinesis Client Library (KCL, with its leases in a DynamoDB in this process).
//
// KINESIN_DATA, KINESIN_ENDPOINT and KINESIN_PLAIN as in common.py. Arguments: which of `sdk`, `kpl` and `kcl`; all without any.
// Prints a line for each promise and ends with 1 if one is not kept.

import com.amazonaws.services.dynamodbv2.local.embedded.DynamoDBEmbedded;
import com.google.common.util.concurrent.ListenableFuture;
import java.io.InputStream;
import java.net.URI;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.*;
import java.security.KeyStore;
import java.security.cert.CertificateFactory;
import java.util.*;
import java.util.concurrent.*;
import java.util.stream.*;
import javax.net.ssl.TrustManagerFactory;
import software.amazon.awssdk.auth.credentials.*;
import software.amazon.awssdk.core.SdkBytes;
import software.amazon.awssdk.core.client.config.ClientOverrideConfiguration;
import software.amazon.awssdk.core.interceptor.*;
import software.amazon.awssdk.core.retry.RetryPolicy;
import software.amazon.awssdk.http.TlsTrustManagersProvider;
import software.amazon.awssdk.http.apache.ApacheHttpClient;
import software.amazon.awssdk.http.nio.netty.NettyNioAsyncHttpClient;
import software.amazon.awssdk.http.urlconnection.UrlConnectionHttpClient;
import software.amazon.awssdk.regions.Region;
import software.amazon.awssdk.services.cloudwatch.CloudWatchAsyncClient;
import software.amazon.awssdk.services.dynamodb.DynamoDbAsyncClient;
import software.amazon.awssdk.services.kinesis.*;
import software.amazon.awssdk.services.kinesis.model.*;
import software.amazon.awssdk.services.kinesis.model.Record;
import software.amazon.kinesis.common.*;
import software.amazon.kinesis.coordinator.Scheduler;
import software.amazon.kinesis.lifecycle.events.*;
import software.amazon.kinesis.metrics.NullMetricsFactory;
import software.amazon.kinesis.processor.*;
import software.amazon.kinesis.producer.*;
import software.amazon.kinesis.retrieval.*;
import software.amazon.kinesis.retrieval.fanout.FanOutConfig;
import software.amazon.kinesis.retrieval.polling.PollingConfig;

public class Conformance {
    static final String DATA = System.getenv("KINESIN_DATA");
    static final URI TLS = URI.create(System.getenv("KINESIN_ENDPOINT")), PLAIN = URI.create(System.getenv("KINESIN_PLAIN"));
    // The KPL refuses `local-1`: a region's name has three words there.
    static final Region REGION = Region.US_EAST_1;
    static final String SHARD0 = "shardId-000000000000", HALF = "170141183460469231731687303715884105728";
    static final Set<String> spoken = ConcurrentHashMap.newKeySet();
    static int failed;

    static void promise(String name, Callable<?> body) {
        long started = System.nanoTime();
        try {
            Object told = body.call();
            System.out.printf("ok      %s: %s (%.1f s)%n", name, told, (System.nanoTime() - started) / 1e9);
        } catch (Throwable error) {
            failed++;
            System.out.println("FAILED  " + name);
            error.printStackTrace(System.out);
        }
    }

    static void check(boolean kept, Object... what) {
        if (!kept) throw new AssertionError(Arrays.deepToString(what));
    }

    static String refused(Class<? extends KinesisException> kind, Callable<?> body) {
        Throwable error = null;
        try {
            body.call();
        } catch (Throwable thrown) {
            error = thrown instanceof ExecutionException ? thrown.getCause() : thrown;
        }
        if (!kind.isInstance(error)) throw new AssertionError(kind + " was expected", error);
        KinesisException is = (KinesisException) error;
        check(is.statusCode() == 400 && is.requestId() != null && is.awsErrorDetails().errorMessage() != null, is);
        return is.awsErrorDetails().errorCode();
    }

    static AwsCredentialsProvider credentials() throws Exception {
        Properties file = new Properties();
        file.load(Files.newBufferedReader(Path.of(DATA, "admin.credentials")));
        return StaticCredentialsProvider.create(AwsBasicCredentials.create(
            file.getProperty("aws_access_key_id"), file.getProperty("aws_secret_access_key")));
    }

    /** The store's own authority, and nobody else's. */
    static TlsTrustManagersProvider trust() throws Exception {
        KeyStore store = KeyStore.getInstance(KeyStore.getDefaultType());
        store.load(null, null);
        try (InputStream file = Files.newInputStream(Path.of(DATA, "ca.pem"))) {
            store.setCertificateEntry("store", CertificateFactory.getInstance("X.509").generateCertificate(file));
        }
        TrustManagerFactory factory = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
        factory.init(store);
        return factory::getTrustManagers;
    }

    /** One attempt, so that nothing is hidden; what was spoken is noted. */
    static ClientOverrideConfiguration once() {
        return ClientOverrideConfiguration.builder().retryPolicy(RetryPolicy.none()).addExecutionInterceptor(new ExecutionInterceptor() {
            public void afterTransmission(Context.AfterTransmission context, ExecutionAttributes attributes) {
                spoken.add(context.httpRequest().firstMatchingHeader("Content-Type").orElse("none"));
                context.httpResponse().firstMatchingHeader("Content-Type").ifPresent(spoken::add);
            }
        }).build();
    }

    static KinesisAsyncClient async(URI endpoint) throws Exception {
        return KinesisAsyncClient.builder().endpointOverride(endpoint).region(REGION).credentialsProvider(credentials())
            .httpClientBuilder(NettyNioAsyncHttpClient.builder().tlsTrustManagersProvider(trust())).build();
    }

    static KinesisClient sync(URI endpoint, boolean apache) throws Exception {
        return KinesisClient.builder().endpointOverride(endpoint).region(REGION).credentialsProvider(credentials())
            .overrideConfiguration(once()).httpClient(apache ? ApacheHttpClient.builder().tlsTrustManagersProvider(trust()).build()
                : UrlConnectionHttpClient.builder().tlsTrustManagersProvider(trust()).build()).build();
    }

    static void active(KinesisClient k, String stream) throws Exception {
        while (k.describeStreamSummary(r -> r.streamName(stream)).streamDescriptionSummary().streamStatus() != StreamStatus.ACTIVE)
            Thread.sleep(20);
    }

    static List<Record> readAll(KinesisClient k, String stream, String shard) throws Exception {
        List<Record> records = new ArrayList<>();
        String next = k.getShardIterator(r -> r.streamName(stream).shardId(shard).shardIteratorType("TRIM_HORIZON")).shardIterator();
        while (next != null) {
            String at = next;
            GetRecordsResponse answer = k.getRecords(r -> r.shardIterator(at));
            records.addAll(answer.records());
            next = answer.records().isEmpty() && answer.millisBehindLatest() == 0 ? null : answer.nextShardIterator();
            Thread.sleep(250);
        }
        return records;
    }

    static PutRecordsResponse put(KinesisClient k, String stream, Map<String, String> records) {
        return k.putRecords(r -> r.streamName(stream).records(records.entrySet().stream().map(e -> PutRecordsRequestEntry.builder()
            .data(SdkBytes.fromUtf8String(e.getKey())).partitionKey(e.getValue()).build()).toList()));
    }

    /** Texts, and the key of each. */
    static Map<String, String> texts(int from, int to) {
        Map<String, String> texts = new LinkedHashMap<>();
        for (int n = from; n < to; n++) texts.put("record " + n + " ".repeat(n % 60), "key-" + n % 97);
        return texts;
    }

    static void calls(String how, String kind, KinesisClient k, String stream) {
        promise(how + "records come back as they were put", () -> {
            spoken.clear();
            k.createStream(r -> r.streamName(stream).shardCount(1));
            active(k, stream);
            byte[] any = {0, -1, 7};
            k.putRecord(r -> r.streamName(stream).partitionKey("a").data(SdkBytes.fromByteArray(any)));
            PutRecordsResponse many = put(k, stream, texts(0, 500));
            List<Record> got = readAll(k, stream, SHARD0);
            check(many.failedRecordCount() == 0 && Arrays.equals(got.remove(0).data().asByteArray(), any), many.failedRecordCount());
            check(got.stream().map(r -> r.data().asUtf8String()).toList().equals(List.copyOf(texts(0, 500).keySet())), got.size());
            check(got.stream().map(Record::sequenceNumber).toList().equals(many.records().stream().map(r -> r.sequenceNumber()).toList()));
            check(Math.abs(System.currentTimeMillis() - got.get(0).approximateArrivalTimestamp().toEpochMilli()) < 60_000, got.get(0));
            String at = k.getShardIterator(r -> r.streamName(stream).shardId(SHARD0).shardIteratorType("AT_TIMESTAMP")
                .timestamp(got.get(0).approximateArrivalTimestamp())).shardIterator();
            check(k.getRecords(r -> r.shardIterator(at).limit(10)).records().size() == 10);
            return got.size();
        });
        promise(how + "errors are of the classes that programs catch", () -> List.of(
            refused(ResourceInUseException.class, () -> k.createStream(r -> r.streamName(stream).shardCount(1))),
            refused(ResourceNotFoundException.class, () -> k.describeStream(r -> r.streamName("nowhere"))),
            refused(InvalidArgumentException.class, () -> k.getRecords(r -> r.shardIterator("AAAA"))),
            refused(LimitExceededException.class, () -> k.createStream(r -> r.streamName("huge").shardCount(100_000))),
            refused(ValidationException.class, () -> k.createStream(r -> r.streamName("").shardCount(0))),
            refused(ProvisionedThroughputExceededException.class, () -> {
                for (int n = 0; n < 9; n++) k.putRecord(r -> r.streamName(stream).partitionKey("a").data(SdkBytes.fromByteArray(new byte[300_000])));
                return null;
            })));
        promise(how + "shards are divided, joined, counted and listed, and a stream is removed", () -> {
            k.splitShard(r -> r.streamName(stream).shardToSplit(SHARD0).newStartingHashKey(HALF));
            active(k, stream);
            k.mergeShards(r -> r.streamName(stream).shardToMerge("shardId-000000000001").adjacentShardToMerge("shardId-000000000002"));
            active(k, stream);
            k.updateShardCount(r -> r.streamName(stream).targetShardCount(2).scalingType("UNIFORM_SCALING"));
            active(k, stream);
            List<Shard> all = k.listShards(r -> r.streamName(stream)).shards();
            check(all.size() == 6 && "shardId-000000000002".equals(all.get(3).adjacentParentShardId()), all);
            check(k.listShards(r -> r.streamName(stream).shardFilter(f -> f.type("AT_LATEST"))).shards().size() == 2);
            check(k.listStreamsPaginator(r -> r.limit(1)).stream().flatMap(p -> p.streamNames().stream()).anyMatch(stream::equals));
            k.deleteStream(r -> r.streamName(stream));
            check(spoken.equals(Set.of(kind)), spoken);
            return spoken;
        });
    }

    static void subscription(String how, KinesisAsyncClient k, KinesisClient other, String stream) {
        promise(how + "a subscription brings what is there, what comes, and the children of a divided shard", () -> {
            k.createStream(r -> r.streamName(stream).shardCount(1)).get();
            active(other, stream);
            for (CompletableFuture<?> put : Stream.generate(() -> k.putRecord(r -> r.streamName(stream).partitionKey("a")
                .data(SdkBytes.fromUtf8String("before")))).limit(300).toList()) put.get();
            String arn = k.describeStreamSummary(r -> r.streamName(stream)).get().streamDescriptionSummary().streamARN();
            String consumer = k.registerStreamConsumer(r -> r.streamARN(arn).consumerName("java")).get().consumer().consumerARN();
            k.waiter().waitUntilStreamExists(r -> r.streamName(stream)).get();
            List<String> got = new CopyOnWriteArrayList<>();
            Callable<CompletableFuture<Void>> subscribe = () -> k.subscribeToShard(r -> r.consumerARN(consumer).shardId(SHARD0)
                .startingPosition(s -> s.type("TRIM_HORIZON")), SubscribeToShardResponseHandler.builder().subscriber(
                SubscribeToShardResponseHandler.Visitor.builder().onSubscribeToShardEvent(event -> {
                    event.records().forEach(record -> got.add(record.data().asUtf8String()));
                    event.childShards().forEach(child -> got.add(child.shardId()));
                }).build()).build());
            CompletableFuture<Void> ended = subscribe.call();
            await(() -> got.size() == 300, got);
            refused(ResourceInUseException.class, () -> subscribe.call().get());
            other.putRecord(r -> r.streamName(stream).partitionKey("a").data(SdkBytes.fromUtf8String("after")));
            await(() -> got.size() == 301, got);
            other.splitShard(r -> r.streamName(stream).shardToSplit(SHARD0).newStartingHashKey(HALF));
            ended.get(20, TimeUnit.SECONDS);
            check(got.subList(300, got.size()).equals(List.of("after", "shardId-000000000001", "shardId-000000000002")), got);
            return got.size() - 2;
        });
    }

    static void await(Callable<Boolean> there, Object... what) throws Exception {
        for (int n = 0; n < 900 && !there.call(); n++) Thread.sleep(100);
        check(there.call(), what);
    }

    static void sdk() throws Exception {
        for (String kind : List.of("cbor", "json")) {
            System.setProperty("aws.cborEnabled", String.valueOf(kind.equals("cbor")));
            try (KinesisClient tls = sync(TLS, true); KinesisClient plain = sync(PLAIN, false);
                 KinesisAsyncClient two = async(TLS); KinesisAsyncClient two_plain = async(PLAIN)) {
                calls("SDK, " + kind + ", Apache, TLS: ", "application/x-amz-" + kind + "-1.1", tls, "java-tls-" + kind);
                calls("SDK, " + kind + ", URLConnection: ", "application/x-amz-" + kind + "-1.1", plain, "java-plain-" + kind);
                subscription("SDK, " + kind + ", HTTP/2, TLS: ", two, tls, "java-two-tls-" + kind);
                subscription("SDK, " + kind + ", HTTP/2: ", two_plain, tls, "java-two-plain-" + kind);
            }
        }
    }

    /** Where each record is stored, taken apart by KCL's own class. */
    static Map<String, List<String>> stored(KinesisClient k, String stream) throws Exception {
        Map<String, List<String>> found = new HashMap<>();
        for (Shard shard : k.listShards(r -> r.streamName(stream)).shards()) {
            List<KinesisClientRecord> records = readAll(k, stream, shard.shardId()).stream().map(KinesisClientRecord::fromRecord).toList();
            for (KinesisClientRecord record : new AggregatorUtil().deaggregate(records))
                found.computeIfAbsent(StandardCharsets.UTF_8.decode(record.data()).toString(), text -> new ArrayList<>())
                    .add(record.partitionKey() + " " + shard.shardId() + " " + record.sequenceNumber());
        }
        return found;
    }

    static void produce(String name, int shards, int total, boolean split, boolean aggregates) {
        promise(name, () -> {
            String stream = "kpl-" + UUID.randomUUID();
            try (KinesisClient k = sync(PLAIN, true)) {
                k.createStream(r -> r.streamName(stream).shardCount(shards));
                active(k, stream);
                KinesisProducer producer = new KinesisProducer(new KinesisProducerConfiguration().setRegion(REGION.id())
                    .setCredentialsProvider(credentials()).setCaCertFile(Path.of(DATA, "ca.pem").toString())
                    .setKinesisEndpoint(TLS.getHost()).setKinesisPort(TLS.getPort())
                    .setCloudwatchEndpoint("127.0.0.1").setCloudwatchPort(9).setMetricsLevel("none").setLogLevel("error")
                    .setAggregationEnabled(aggregates).setRecordMaxBufferedTime(50).setRecordTtl(120_000));
                Map<String, ListenableFuture<UserRecordResult>> told = new LinkedHashMap<>();
                for (Map.Entry<String, String> one : texts(0, total).entrySet()) {
                    ByteBuffer data = ByteBuffer.wrap(one.getKey().getBytes(StandardCharsets.UTF_8));
                    told.put(one.getKey(), producer.addUserRecord(stream, one.getValue(), data));
                    if (told.size() % 1000 == 0) Thread.sleep(100);
                    if (split && told.size() == total / 2) k.splitShard(r -> r.streamName(stream).shardToSplit(SHARD0).newStartingHashKey(HALF));
                }
                producer.flush();
                long sent = 0;
                for (ListenableFuture<UserRecordResult> one : told.values()) {
                    UserRecordResult result = one.get(60, TimeUnit.SECONDS);
                    // What went to another shard than the daemon expected is there, and is sent again.
                    sent += result.getAttempts().stream().filter(a -> a.isSuccessful() || "Wrong Shard".equals(a.getErrorCode())).count();
                }
                producer.destroy();
                Map<String, List<String>> found = stored(k, stream);
                for (Map.Entry<String, String> one : texts(0, total).entrySet()) {
                    UserRecordResult result = told.get(one.getKey()).get();
                    String place = one.getValue() + " " + result.getShardId() + " " + result.getSequenceNumber();
                    check(result.isSuccessful() && found.getOrDefault(one.getKey(), List.of()).contains(place), one, place);
                }
                long copies = found.values().stream().mapToInt(List::size).sum();
                check(found.size() == total && copies == sent && (split || copies == total), found.size(), copies, sent);
                return total + " records, sent " + sent;
            }
        });
    }

    static void kpl() {
        produce("KPL: every record is stored once, where its producer is told", 3, 30_000, false, true);
        produce("KPL: with a shard divided meanwhile, what it sent is there, and nothing else", 1, 40_000, true, true);
        produce("KPL: without aggregation every record is stored once, throttled and divided or not", 1, 5_000, true, false);
    }

    /** What a KCL application saw: each key's records, and which shards began and ended. */
    record Seen(Map<String, List<String>> keys, List<String> shards) implements ShardRecordProcessor {
        Seen() { this(new ConcurrentHashMap<>(), new CopyOnWriteArrayList<>()); }
        int count() { return keys.values().stream().mapToInt(List::size).sum(); }
        public void initialize(InitializationInput input) { shards.add("+" + Integer.parseInt(input.shardId().substring(8))); }
        public void processRecords(ProcessRecordsInput input) {
            input.records().forEach(record -> keys.computeIfAbsent(record.partitionKey(), key -> new CopyOnWriteArrayList<>())
                .add(StandardCharsets.UTF_8.decode(record.data()).toString()));
            if (!input.records().isEmpty()) checkpoint(input.checkpointer());
        }
        public void leaseLost(LeaseLostInput input) { shards.add("lost"); }
        public void shardEnded(ShardEndedInput input) { shards.add("end"); checkpoint(input.checkpointer()); }
        public void shutdownRequested(ShutdownRequestedInput input) { checkpoint(input.checkpointer()); }
        void checkpoint(RecordProcessorCheckpointer to) {
            try { to.checkpoint(); } catch (Exception error) { shards.add(error.toString()); }
        }
    }

    static Scheduler worker(String name, String stream, boolean fanOut, KinesisAsyncClient k, DynamoDbAsyncClient leases, Seen seen) throws Exception {
        CloudWatchAsyncClient none = CloudWatchAsyncClient.builder().endpointOverride(URI.create("http://127.0.0.1:9")).region(REGION)
            .credentialsProvider(credentials()).build();
        ConfigsBuilder all = new ConfigsBuilder(stream, stream, k, leases, none, name, () -> seen);
        var start = InitialPositionInStreamExtended.newInitialPosition(InitialPositionInStream.TRIM_HORIZON);
        Scheduler worker = new Scheduler(all.checkpointConfig(), all.coordinatorConfig().parentShardPollIntervalMillis(500),
            all.leaseManagementConfig().failoverTimeMillis(3000).shardSyncIntervalMillis(2000).initialPositionInStream(start),
            all.lifecycleConfig(), all.metricsConfig().metricsFactory(new NullMetricsFactory()), all.processorConfig(),
            all.retrievalConfig().initialPositionInStreamExtended(start).retrievalSpecificConfig(fanOut
                ? new FanOutConfig(k).streamName(stream).applicationName(stream) : new PollingConfig(stream, k).idleTimeBetweenReadsInMillis(300)));
        Thread thread = new Thread(worker);
        thread.setDaemon(true);
        thread.start();
        return worker;
    }

    static void kcl() {
        DynamoDbAsyncClient leases = DynamoDBEmbedded.create(true).dynamoDbAsyncClient();
        for (boolean fanOut : new boolean[] {false, true}) promise("KCL, " + (fanOut ? "fan-out" : "polling")
                + ": across a division, a joining and a second worker, every record is seen once, each key in order", () -> {
            String stream = "kcl-" + UUID.randomUUID();
            Seen seen = new Seen();
            try (KinesisClient k = sync(PLAIN, true); KinesisAsyncClient two = async(TLS)) {
                k.createStream(r -> r.streamName(stream).shardCount(2));
                active(k, stream);
                Scheduler worker = worker("one", stream, fanOut, two, leases, seen);
                for (int n = 1; n <= 5; n++) {
                    String at = "85070591730234615865843651857942052864";
                    if (n == 2) k.splitShard(r -> r.streamName(stream).shardToSplit(SHARD0).newStartingHashKey(at));
                    if (n == 3) k.mergeShards(r -> r.streamName(stream).shardToMerge("shardId-000000000003").adjacentShardToMerge("shardId-000000000001"));
                    if (n == 4) check(worker.startGracefulShutdown().get(60, TimeUnit.SECONDS), "the first worker stops");
                    active(k, stream);
                    check(put(k, stream, texts(n * 400 - 400, n * 400)).failedRecordCount() == 0);
                    if (n == 4) worker = worker("two", stream, fanOut, two, leases, seen);
                    int count = n * 400;
                    await(() -> seen.count() >= count, seen.count(), count, seen.shards);
                }
                worker.startGracefulShutdown().get(60, TimeUnit.SECONDS);
                Map<String, List<String>> made = new HashMap<>();
                texts(0, 2000).forEach((text, key) -> made.computeIfAbsent(key, any -> new ArrayList<>()).add(text));
                check(seen.keys.equals(made), seen.count(), seen.shards);
                return seen.count() + " records, shards " + seen.shards;
            }
        });
    }

    public static void main(String[] parts) throws Exception {
        Set<String> wanted = Set.of(parts.length > 0 ? parts : new String[] {"sdk", "kpl", "kcl"});
        if (wanted.contains("sdk")) sdk();
        if (wanted.contains("kpl")) kpl();
        if (wanted.contains("kcl")) kcl();
        System.exit(failed > 0 ? 1 : 0);
    }
}
