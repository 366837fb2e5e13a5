import com.amazonaws.auth.AWSCredentialsProvider;
import com.amazonaws.auth.profile.ProfileCredentialsProvider;
import com.amazonaws.client.builder.AwsClientBuilder.EndpointConfiguration;
import com.amazonaws.kinesisvideo.parser.ebml.InputStreamParserByteSource;
import com.amazonaws.kinesisvideo.parser.mkv.Frame;
import com.amazonaws.kinesisvideo.parser.mkv.FrameProcessException;
import com.amazonaws.kinesisvideo.parser.mkv.StreamingMkvReader;
import com.amazonaws.kinesisvideo.parser.utilities.FragmentMetadata;
import com.amazonaws.kinesisvideo.parser.utilities.FragmentMetadataVisitor;
import com.amazonaws.kinesisvideo.parser.utilities.FrameVisitor;
import com.amazonaws.kinesisvideo.parser.utilities.H264FrameDecoder;
import com.amazonaws.kinesisvideo.parser.utilities.MkvTrackMetadata;
import com.amazonaws.services.kinesisvideo.*;
import com.amazonaws.services.kinesisvideo.model.*;
import java.io.ByteArrayInputStream;
import java.io.InputStream;
import java.math.BigInteger;
import java.net.URI;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.*;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.function.IntSupplier;

/**
 * What AWS wrote in Java for Kinesis Video Streams, as it is, against a running store: the PutMedia client and the clients of the
 * SDK, and the parser library. Arguments: http address of the store, FILM.mkv (H.264 without B-frames, AAC), credentials file.
 */
public final class Video {
    /** A region of AWS, as the clients know no other; streams of each are a namespace. */
    static final String REGION = "us-west-2";
    static final String STREAM = "java-" + System.currentTimeMillis();
    static final long MINUTE = 60_000;

    final String endpoint;
    final byte[] film;
    final AWSCredentialsProvider key;
    final AmazonKinesisVideo control;
    /** The producer's clock. */
    final Date start = new Date(System.currentTimeMillis() - 60 * MINUTE);
    List<String> numbers = new ArrayList<>();

    Video(String endpoint, Path film, String credentials) throws Exception {
        this.endpoint = endpoint;
        this.film = Files.readAllBytes(film);
        this.key = new ProfileCredentialsProvider(credentials, "default");
        this.control = AmazonKinesisVideoClientBuilder.standard().withCredentials(key)
            .withEndpointConfiguration(new EndpointConfiguration(endpoint, REGION)).build();
    }

    interface Promise { String holds() throws Exception; }

    static void promise(String name, Promise promise) {
        try {
            System.out.println("ok      " + name + ": " + promise.holds());
        } catch (Throwable failure) {
            System.out.println("FAILED  " + name);
            failure.printStackTrace(System.out);
            System.exit(1);
        }
    }

    static void check(boolean holds, Object what) {
        if (!holds) throw new AssertionError(String.valueOf(what));
    }

    EndpointConfiguration of(APIName api) {
        var asked = new GetDataEndpointRequest().withStreamName(STREAM).withAPIName(api);
        return new EndpointConfiguration(control.getDataEndpoint(asked).getDataEndpoint(), REGION);
    }

    /** All that is acknowledged of what is put. */
    List<AckEvent> put(byte[] payload, FragmentTimecodeType type) throws Exception {
        var client = AmazonKinesisVideoPutMediaClientBuilder.standard().withRegion(REGION).withCredentials(key)
            .withEndpoint(URI.create(of(APIName.PUT_MEDIA).getServiceEndpoint())).build();
        List<AckEvent> acks = Collections.synchronizedList(new ArrayList<>());
        var done = new CompletableFuture<Void>();
        var request = new PutMediaRequest().withStreamName(STREAM).withFragmentTimecodeType(type)
            .withPayload(new ByteArrayInputStream(payload)).withProducerStartTimestamp(start);
        client.putMedia(request, new PutMediaAckResponseHandler() {
            public void onAckEvent(AckEvent event) { acks.add(event); }
            public void onFailure(Throwable failure) { done.completeExceptionally(failure); }
            public void onComplete() { done.complete(null); }
        });
        done.get(30, TimeUnit.SECONDS);
        client.close();
        return acks;
    }

    static List<String> of(List<AckEvent> acks, String type) {
        return acks.stream().filter(ack -> ack.getAckEventType().toString().equals(type)).map(AckEvent::getFragmentNumber).toList();
    }

    /** What the parser library makes of an answer: how many frames, and of which fragments. */
    static final class Frames implements FrameVisitor.FrameProcessor {
        volatile int frames;
        final Set<String> fragments = new LinkedHashSet<>();
        public void process(Frame frame, MkvTrackMetadata track, Optional<FragmentMetadata> fragment) {
            frames++;
            fragment.ifPresent(known -> {
                check(known.isSuccess(), known);
                fragments.add(known.getFragmentNumberString());
            });
        }
    }

    /** All that comes, until nothing has come for two seconds: live media has no end. */
    static void read(InputStream payload, FrameVisitor.FrameProcessor frames, IntSupplier count) throws Exception {
        var visitor = FrameVisitor.create(frames);
        var reading = new CompletableFuture<Void>();
        var thread = new Thread(() -> {
            try {
                StreamingMkvReader.createDefault(new InputStreamParserByteSource(payload)).apply(visitor);
                reading.complete(null);
            } catch (Throwable failure) {
                reading.completeExceptionally(failure);
            }
        });
        thread.setDaemon(true);
        thread.start();
        int before = 0;
        for (int wait = 0; wait < 60 && (before == 0 || before != count.getAsInt()); wait++) {
            before = count.getAsInt();
            try {
                reading.get(2, TimeUnit.SECONDS);
                return;
            } catch (java.util.concurrent.TimeoutException more) {
                // It goes on, or nothing comes.
            }
        }
    }

    /** Kept, as a client that nobody refers to any more closes its connections. */
    AmazonKinesisVideoMedia media;

    InputStream media(StartSelector from) {
        if (media == null) {
            media = AmazonKinesisVideoMediaClientBuilder.standard().withCredentials(key).withEndpointConfiguration(of(APIName.GET_MEDIA)).build();
        }
        return media.getMedia(new GetMediaRequest().withStreamName(STREAM).withStartSelector(from)).getPayload();
    }

    void run() {
        promise("a stream is made and described", () -> {
            control.createStream(new CreateStreamRequest().withStreamName(STREAM).withDataRetentionInHours(24).withMediaType("video/h264"));
            var told = control.describeStream(new DescribeStreamRequest().withStreamName(STREAM)).getStreamInfo();
            check(told.getStatus().equals("ACTIVE") && told.getMediaType().equals("video/h264"), told);
            return told.getStreamARN();
        });
        promise("each fragment that the PutMedia client sends is buffered, received and persisted", () -> {
            var acks = put(film, FragmentTimecodeType.RELATIVE);
            numbers = of(acks, "PERSISTED");
            check(numbers.size() > 2 && of(acks, "RECEIVED").equals(numbers) && acks.size() == 3 * numbers.size(), acks);
            return numbers.size() + " fragments";
        });
        promise("the parser library reads every frame of GetMedia", () -> {
            var all = new Frames();
            read(media(new StartSelector().withStartSelectorType(StartSelectorType.EARLIEST)), all, () -> all.frames);
            check(List.copyOf(all.fragments).equals(numbers), all.fragments);
            var some = new Frames();
            var from = new StartSelector().withStartSelectorType(StartSelectorType.PRODUCER_TIMESTAMP);
            read(media(from.withStartTimestamp(new Date(start.getTime() + 2500))), some, () -> some.frames);
            check(some.frames > 0 && some.frames < all.frames, some.frames);
            return all.frames + " frames, " + some.frames + " from a time on";
        });
        promise("it finds how far behind it is, and where to go on", () -> {
            var told = FragmentMetadataVisitor.create();
            var reader = StreamingMkvReader.createDefault(new InputStreamParserByteSource(media(new StartSelector().withStartSelectorType(StartSelectorType.EARLIEST))));
            while (told.getContinuationToken().isEmpty()) {
                check(reader.mightHaveNext(), "the end");
                var element = reader.nextIfAvailable();
                if (element.isPresent()) element.get().accept(told);
            }
            check(told.getContinuationToken().get().equals(numbers.get(0)), told.getContinuationToken());
            return told.getMillisBehindNow().getAsLong() + " ms behind";
        });
        var archive = AmazonKinesisVideoArchivedMediaClientBuilder.standard().withCredentials(key)
            .withEndpointConfiguration(of(APIName.LIST_FRAGMENTS)).build();
        promise("fragments are listed by the producer's clock, and got by their numbers with all their pictures", () -> {
            var range = new TimestampRange().withStartTimestamp(start).withEndTimestamp(new Date(start.getTime() + MINUTE));
            var selector = new FragmentSelector().withFragmentSelectorType(FragmentSelectorType.PRODUCER_TIMESTAMP).withTimestampRange(range);
            var listed = archive.listFragments(new ListFragmentsRequest().withStreamName(STREAM).withMaxResults(100L).withFragmentSelector(selector));
            check(listed.getFragments().stream().map(Fragment::getFragmentNumber).toList().equals(numbers), listed);
            var asked = new GetMediaForFragmentListRequest().withStreamName(STREAM).withFragments(numbers);
            var frames = new Frames();
            read(archive.getMediaForFragmentList(asked).getPayload(), frames, () -> frames.frames);
            check(List.copyOf(frames.fragments).equals(numbers), frames.fragments);
            int[] pictures = {0};
            var asks = new AtomicInteger();
            read(archive.getMediaForFragmentList(asked).getPayload(), new H264FrameDecoder() {
                public void process(Frame frame, MkvTrackMetadata track, Optional<FragmentMetadata> of) throws FrameProcessException {
                    if (track.getPixelWidth().isPresent() && decodeH264Frame(frame, track) != null) pictures[0]++;
                }
            // It ends by itself.
            }, asks::incrementAndGet);
            check(pictures[0] * 3 > frames.frames, pictures[0] + " pictures of " + frames.frames + " frames, sound and all");
            return frames.frames + " frames, " + pictures[0] + " pictures decoded";
        });
        promise("what comes after a fragment that is not there is read", () -> {
            List<String> asked = List.of(numbers.get(0), new BigInteger(numbers.get(1)).add(BigInteger.ONE).toString(), numbers.get(1));
            var told = FragmentMetadataVisitor.create();
            var reader = StreamingMkvReader.createDefault(new InputStreamParserByteSource(archive
                .getMediaForFragmentList(new GetMediaForFragmentListRequest().withStreamName(STREAM).withFragments(asked)).getPayload()));
            Set<String> seen = new LinkedHashSet<>();
            while (reader.mightHaveNext()) {
                var element = reader.nextIfAvailable();
                if (element.isEmpty()) continue;
                element.get().accept(told);
                told.getCurrentFragmentMetadata().ifPresent(one -> seen.add(one.getFragmentNumberString() + " " + one.isSuccess()));
            }
            check(seen.contains(numbers.get(0) + " true") && seen.contains(numbers.get(1) + " true"), seen);
            return seen.size() + " of " + asked.size();
        });
        promise("what is no Matroska, and who is not there, is told by the service's own names", () -> {
            var acks = put(new byte[200], FragmentTimecodeType.ABSOLUTE);
            check(acks.get(0).getErrorCode().toString().equals("INVALID_MKV_DATA"), acks);
            try {
                control.describeStream(new DescribeStreamRequest().withStreamName("nobody"));
                throw new AssertionError("nobody is there");
            } catch (ResourceNotFoundException told) {
                return told.getErrorCode();
            }
        });
        control.deleteStream(new DeleteStreamRequest()
            .withStreamARN(control.describeStream(new DescribeStreamRequest().withStreamName(STREAM)).getStreamInfo().getStreamARN()));
    }

    public static void main(String[] words) throws Exception {
        new Video(words[0], Path.of(words[1]), words[2]).run();
        System.exit(0);
    }
}
