// Apache Flink's own connectors for Kinesis against a store, unchanged: KinesisStreamsSink, KinesisStreamsSource and FlinkKinesisConsumer
// (polling and enhanced fan-out), in jobs of a cluster within this process.
//
// KINESIN_DATA, KINESIN_ENDPOINT and KINESIN_PLAIN as in common.py. Arguments: which of `sink`, `source`, `polling` and `efo`; all without
// any. `plain` has them by HTTP without TLS; `busy` puts records while shards of `source` close, which its version 4.3.0 does not survive: of
// an answer with a closed shard's last records and no next iterator it reads the shard again (FLINK-36427 seems to mend it).
// Prints a line for each promise and ends with 1 if one is not kept.

import java.io.*;
import java.math.BigInteger;
import java.net.URI;
import java.nio.file.*;
import java.security.KeyStore;
import java.security.cert.CertificateFactory;
import java.util.*;
import java.util.concurrent.*;
import java.util.concurrent.atomic.*;
import java.util.function.Function;
import java.util.stream.*;
import org.apache.flink.api.common.eventtime.WatermarkStrategy;
import org.apache.flink.api.common.functions.MapFunction;
import org.apache.flink.api.common.restartstrategy.RestartStrategies;
import org.apache.flink.api.common.serialization.SimpleStringSchema;
import org.apache.flink.api.common.state.CheckpointListener;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.connector.kinesis.sink.KinesisStreamsSink;
import org.apache.flink.connector.kinesis.source.KinesisStreamsSource;
import org.apache.flink.connector.kinesis.source.config.KinesisStreamsSourceConfigConstants;
import org.apache.flink.core.execution.*;
import org.apache.flink.kinesis.shaded.software.amazon.awssdk.auth.credentials.*;
import org.apache.flink.kinesis.shaded.software.amazon.awssdk.core.SdkBytes;
import org.apache.flink.kinesis.shaded.software.amazon.awssdk.http.apache.ApacheHttpClient;
import org.apache.flink.kinesis.shaded.software.amazon.awssdk.regions.Region;
import org.apache.flink.kinesis.shaded.software.amazon.awssdk.services.kinesis.KinesisClient;
import org.apache.flink.kinesis.shaded.software.amazon.awssdk.services.kinesis.model.*;
import org.apache.flink.streaming.api.datastream.DataStream;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.streaming.api.functions.sink.SinkFunction;
import org.apache.flink.streaming.connectors.kinesis.FlinkKinesisConsumer;

/** Where the records of a job come from. */
interface From extends Function<StreamExecutionEnvironment, DataStream<String>> {}

public class Flink {
    static final Path DATA = Path.of(System.getenv("KINESIN_DATA"));
    static final String REGION = "us-east-1", ARN = "arn:aws:kinesis:us-east-1:000000000000:stream/";
    static final Properties client = new Properties();
    static final String run = Long.toString(System.currentTimeMillis() / 1000, 36);
    static KinesisClient k;
    static CompletableFuture<?> result;
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

    /** What came out of a job, how often; the cluster is in this process. */
    static final ConcurrentMap<String, AtomicInteger> seen = new ConcurrentHashMap<>();
    static final AtomicInteger checkpoints = new AtomicInteger();
    static final AtomicBoolean fail = new AtomicBoolean();
    /** Registered once and left: as LAZY, each part of a job that fails deregisters it for the others too, who then believe their shards to be at an end. */
    static boolean eager;

    static class Collect implements SinkFunction<String> {
        public void invoke(String record, Context context) {
            seen.computeIfAbsent(record, r -> new AtomicInteger()).incrementAndGet();
        }
    }

    static class Counting implements MapFunction<String, String>, CheckpointListener {
        public String map(String record) {
            if (fail.compareAndSet(true, false)) throw new IllegalStateException("as was asked for");
            return record;
        }

        public void notifyCheckpointComplete(long id) { checkpoints.incrementAndGet(); }
    }

    static Set<String> texts(int from, int to) {
        return IntStream.range(from, to).mapToObj(n -> "record " + n).collect(Collectors.toCollection(LinkedHashSet::new));
    }

    static String key(String text) {
        return "key-" + text.hashCode() % 997;
    }

    static void active(String stream) throws Exception {
        while (k.describeStreamSummary(r -> r.streamName(stream)).streamDescriptionSummary().streamStatus() != StreamStatus.ACTIVE)
            Thread.sleep(20);
    }

    static String create(String name) throws Exception {
        String stream = name + "-" + run;
        k.createStream(r -> r.streamName(stream).shardCount(3));
        active(stream);
        return stream;
    }

    /** As fast as the shards take them. */
    static void put(String stream, int from, int to) throws Exception {
        List<PutRecordsRequestEntry> left = texts(from, to).stream().map(text -> PutRecordsRequestEntry.builder()
            .data(SdkBytes.fromUtf8String(text)).partitionKey(key(text)).build()).collect(Collectors.toList());
        while (!left.isEmpty()) {
            List<PutRecordsRequestEntry> now = left.subList(0, Math.min(100, left.size())), again = new ArrayList<>();
            List<PutRecordsResultEntry> results = k.putRecords(r -> r.streamName(stream).records(now)).records();
            for (int n = 0; n < results.size(); n++) if (results.get(n).errorCode() != null) again.add(now.get(n));
            again.addAll(left.subList(now.size(), left.size()));
            left = again;
            Thread.sleep(50);
        }
    }

    static List<String> readAll(String stream) throws Exception {
        List<String> texts = new ArrayList<>();
        for (Shard shard : k.listShards(r -> r.streamName(stream)).shards()) {
            String next = k.getShardIterator(r -> r.streamName(stream).shardId(shard.shardId()).shardIteratorType("TRIM_HORIZON")).shardIterator();
            while (next != null) {
                String at = next;
                GetRecordsResponse answer = k.getRecords(r -> r.shardIterator(at));
                answer.records().forEach(record -> texts.add(record.data().asUtf8String()));
                next = answer.records().isEmpty() && answer.millisBehindLatest() == 0 ? null : answer.nextShardIterator();
                Thread.sleep(250);
            }
        }
        return texts;
    }

    static StreamExecutionEnvironment env(String savepoint) {
        Configuration config = new Configuration();
        eager = savepoint != null;
        if (eager) config.setString("execution.savepoint.path", savepoint);
        StreamExecutionEnvironment env = StreamExecutionEnvironment.createLocalEnvironment(2, config);
        env.enableCheckpointing(500);
        env.setRestartStrategy(eager ? RestartStrategies.fixedDelayRestart(5, 100) : RestartStrategies.noRestart());
        return env;
    }

    static JobClient start(From source, String savepoint) throws Exception {
        StreamExecutionEnvironment env = env(savepoint);
        source.apply(env).map(new Counting()).uid("counting").addSink(new Collect()).uid("collect");
        JobClient job = env.executeAsync();
        result = job.getJobExecutionResult();
        return job;
    }

    /** Until all have come, and a while more for what must not come. */
    static void await(JobClient job, Set<String> wanted, int seconds) throws Exception {
        long end = System.nanoTime() + seconds * 1_000_000_000L;
        while (!seen.keySet().containsAll(wanted)) {
            if (result.isDone()) result.get();
            check(System.nanoTime() < end, "of", wanted.size(), "came", seen.size());
            Thread.sleep(100);
        }
        Thread.sleep(2000);
        List<?> twice = seen.entrySet().stream().filter(e -> e.getValue().get() != 1).limit(5).toList();
        check(seen.size() == wanted.size() && twice.isEmpty(), wanted.size(), seen.size(), twice);
        check(!result.isDone());
    }

    /** The last of the open shards by hash key, or the one before. */
    static Shard open(String stream, int fromEnd) {
        List<Shard> open = k.listShards(r -> r.streamName(stream)).shards().stream()
            .filter(s -> s.sequenceNumberRange().endingSequenceNumber() == null)
            .sorted(Comparator.comparing(s -> new BigInteger(s.hashKeyRange().startingHashKey()))).toList();
        return open.get(open.size() - fromEnd);
    }

    /** A stream that has records 0 to `n`: read to its end, across a split, a merge and a savepoint. */
    static void reads(String how, String stream, int n, boolean busy, From source) {
        JobClient[] job = {null};
        promise(how + ": what was there is read once", () -> {
            seen.clear();
            checkpoints.set(0);
            job[0] = start(source, null);
            await(job[0], texts(0, n), 120);
            return seen.size();
        });
        promise(how + ": a split and a merge " + (busy ? "while" : "before") + " records are put lose and repeat none", () -> {
            Future<?> putting = !busy ? null : ForkJoinPool.commonPool().submit(() -> { put(stream, n, n + 10_000); return null; });
            Thread.sleep(1000);
            Shard whole = open(stream, 1);
            k.splitShard(r -> r.streamName(stream).shardToSplit(whole.shardId()).newStartingHashKey(
                new BigInteger(whole.hashKeyRange().startingHashKey()).add(BigInteger.TWO.pow(126)).toString()));
            active(stream);
            Thread.sleep(2000);
            if (!busy) put(stream, n, n + 5000);
            if (!busy) await(job[0], texts(0, n + 5000), 120);
            k.mergeShards(r -> r.streamName(stream).shardToMerge(open(stream, 2).shardId()).adjacentShardToMerge(open(stream, 1).shardId()));
            active(stream);
            check(!busy || !putting.isDone(), "records were to be put meanwhile");
            if (busy) putting.get();
            else put(stream, n + 5000, n + 10_000);
            await(job[0], texts(0, n + 10_000), 120);
            check(checkpoints.get() > 0);
            return seen.size() + " in all, " + checkpoints.get() / 2 + " checkpoints";
        });
        promise(how + ": goes on from a savepoint where it was", () -> {
            String savepoint = job[0].stopWithSavepoint(false, Files.createTempDirectory("flink").toString(), SavepointFormatType.CANONICAL).get();
            int before = seen.size();
            put(stream, n + 10_000, n + 12_000);
            check(seen.size() == before, seen.size(), before);
            job[0] = start(source, savepoint);
            put(stream, n + 12_000, n + 13_000);
            await(job[0], texts(0, n + 13_000), 120);
            return seen.size() - before + " more";
        });
        promise(how + ": goes on from a checkpoint after a failure", () -> {
            check(!result.isDone());
            int before = checkpoints.get();
            while (checkpoints.get() < before + 6) Thread.sleep(50);
            fail.set(true);
            put(stream, n + 13_000, n + 14_000);
            Set<String> all = texts(0, n + 14_000);
            for (int waited = 0; !seen.keySet().containsAll(all); waited++) {
                check(waited < 600 && !result.isDone(), all.size(), seen.size());
                Thread.sleep(100);
            }
            check(!fail.get());
            Set<String> again = seen.entrySet().stream().filter(e -> e.getValue().get() > 1).map(Map.Entry::getKey).collect(Collectors.toSet());
            check(seen.size() == all.size() && texts(n + 13_000, n + 14_000).containsAll(again), seen.size(), again.size());
            return "1000 more, " + again.size() + " of them again";
        });
        if (!result.isDone()) job[0].cancel().join();
        result = CompletableFuture.completedFuture(null);
    }

    static DataStream<String> legacy(StreamExecutionEnvironment env, String stream, String publisher) {
        Properties config = new Properties();
        config.putAll(client);
        config.putAll(Map.of("flink.stream.initpos", "TRIM_HORIZON", "flink.stream.recordpublisher", publisher,
            "flink.stream.efo.consumername", "flink", "flink.stream.efo.registration", eager ? "EAGER" : "LAZY", "flink.shard.discovery.intervalmillis", "1000"));
        return env.addSource(new FlinkKinesisConsumer<>(stream, new SimpleStringSchema(), config)).uid("source");
    }

    public static void main(String[] arguments) throws Exception {
        Set<String> parts = new HashSet<>(List.of(arguments));
        String endpoint = System.getenv(parts.remove("plain") ? "KINESIN_PLAIN" : "KINESIN_ENDPOINT");
        boolean busy = parts.remove("busy");
        if (parts.isEmpty()) parts.addAll(List.of("sink", "source", "polling", "efo"));
        KeyStore trust = KeyStore.getInstance("PKCS12");
        trust.load(null, null);
        try (InputStream file = Files.newInputStream(DATA.resolve("ca.pem"))) {
            trust.setCertificateEntry("store", CertificateFactory.getInstance("X.509").generateCertificate(file));
        }
        Path trusted = Files.createTempFile("trust", ".p12");
        try (OutputStream file = Files.newOutputStream(trusted)) {
            trust.store(file, "changeit".toCharArray());
        }
        System.setProperty("javax.net.ssl.trustStore", trusted.toString());
        System.setProperty("javax.net.ssl.trustStorePassword", "changeit");
        Properties keys = new Properties();
        keys.load(Files.newBufferedReader(DATA.resolve("admin.credentials")));
        String id = keys.getProperty("aws_access_key_id"), secret = keys.getProperty("aws_secret_access_key");
        client.putAll(Map.of("aws.region", REGION, "aws.endpoint", endpoint, "aws.credentials.provider", "BASIC",
            "aws.credentials.provider.basic.accesskeyid", id, "aws.credentials.provider.basic.secretkey", secret));
        k = KinesisClient.builder().endpointOverride(URI.create(endpoint)).region(Region.of(REGION)).httpClient(ApacheHttpClient.create())
            .credentialsProvider(StaticCredentialsProvider.create(AwsBasicCredentials.create(id, secret))).build();

        String sunk = create("flink-new");
        if (parts.contains("sink") || parts.contains("source")) promise("KinesisStreamsSink: 20,000 records over 3 shards are there, each once", () -> {
            StreamExecutionEnvironment env = env(null);
            env.fromSequence(0, 19_999).map(n -> "record " + n).returns(String.class).map(new Counting()).sinkTo(KinesisStreamsSink.<String>builder()
                .setStreamName(sunk).setKinesisClientProperties(client).setSerializationSchema(new SimpleStringSchema())
                .setPartitionKeyGenerator(Flink::key).setMaxBatchSize(200).build());
            env.execute();
            List<String> got = readAll(sunk);
            check(got.size() == 20_000 && new HashSet<>(got).equals(texts(0, 20_000)), got.size(), new HashSet<>(got).size());
            return got.size() + ", " + checkpoints.get() / 2 + " checkpoints";
        });
        if (parts.contains("source")) reads("KinesisStreamsSource", sunk, 20_000, busy, env -> {
            Configuration config = new Configuration();
            client.forEach((name, value) -> config.setString((String) name, (String) value));
            config.set(KinesisStreamsSourceConfigConstants.STREAM_INITIAL_POSITION, KinesisStreamsSourceConfigConstants.InitialPosition.TRIM_HORIZON);
            config.set(KinesisStreamsSourceConfigConstants.SHARD_DISCOVERY_INTERVAL_MILLIS, 1000L);
            return env.fromSource(KinesisStreamsSource.<String>builder().setStreamArn(ARN + sunk).setSourceConfig(config)
                .setDeserializationSchema(new SimpleStringSchema()).build(), WatermarkStrategy.noWatermarks(), "source").uid("source").returns(String.class);
        });
        for (String publisher : List.of("POLLING", "EFO")) {
            if (!parts.contains(publisher.toLowerCase())) continue;
            String stream = create("flink-" + publisher);
            put(stream, 0, 3000);
            reads("FlinkKinesisConsumer, " + publisher, stream, 3000, true, env -> legacy(env, stream, publisher));
        }
        System.exit(failed == 0 ? 0 : 1);
    }
}
