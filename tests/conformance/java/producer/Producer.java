import com.amazonaws.auth.profile.ProfileCredentialsProvider;
import com.amazonaws.client.builder.AwsClientBuilder.EndpointConfiguration;
import com.amazonaws.kinesisvideo.client.KinesisVideoClient;
import com.amazonaws.kinesisvideo.client.KinesisVideoClientConfiguration;
import com.amazonaws.kinesisvideo.demoapp.contants.DemoTrackInfos;
import com.amazonaws.kinesisvideo.internal.client.mediasource.MediaSource;
import com.amazonaws.kinesisvideo.java.auth.JavaCredentialsProviderImpl;
import com.amazonaws.kinesisvideo.java.client.KinesisVideoJavaClientFactory;
import com.amazonaws.kinesisvideo.java.mediasource.file.*;
import com.amazonaws.kinesisvideo.producer.*;
import com.amazonaws.kinesisvideo.streaming.DefaultStreamCallbacks;
import com.amazonaws.services.kinesisvideo.*;
import com.amazonaws.services.kinesisvideo.model.*;
import java.io.IOException;
import java.net.Socket;
import java.nio.file.*;
import java.security.KeyStore;
import java.security.cert.CertificateFactory;
import java.util.*;
import java.util.concurrent.Executors;
import java.util.jar.JarFile;

/**
 * AWS's producer SDK for Kinesis Video Streams as it is: its native core, which kvssink is built on too, its HTTP in Java and the
 * media sources and sample films that come with it, against stores that this starts and kills. Arguments: the program
 * `kinesin`, an empty folder.
 */
public final class Producer {
    static final String REGION = "us-west-2";
    static final int PORT = 14568, TLS_PORT = 14567;
    /** In the library's sample. */
    static final int PICTURES = 375;

    final Path program, folder, data, media;
    Process store;

    Producer(Path program, Path folder) throws Exception {
        this.program = program;
        this.folder = folder;
        this.data = folder.resolve("data");
        this.media = folder.resolve("media");
        Files.createDirectories(media);
        var jar = Path.of(KinesisVideoClient.class.getProtectionDomain().getCodeSource().getLocation().toURI());
        try (var files = new JarFile(jar.toFile())) {
            for (var entry : Collections.list(files.entries())) {
                if (entry.isDirectory() || !(entry.getName().startsWith("data/") || entry.getName().startsWith("lib/ubuntu/"))) continue;
                var to = media.resolve(entry.getName());
                Files.createDirectories(to.getParent());
                try (var bytes = files.getInputStream(entry)) { Files.copy(bytes, to, StandardCopyOption.REPLACE_EXISTING); }
            }
        }
    }

    void serve() throws Exception {
        store = new ProcessBuilder(program.toString(), "serve", "--data", data.toString(), "--listen", "127.0.0.1:" + TLS_PORT,
            "--insecure-http", "127.0.0.1:" + PORT).redirectErrorStream(true)
            .redirectOutput(ProcessBuilder.Redirect.appendTo(folder.resolve("store.log").toFile())).start();
        for (int wait = 0; ; wait++) {
            try (var socket = new Socket("127.0.0.1", PORT)) {
                return;
            } catch (IOException not) {
                check(wait < 200 && store.isAlive(), "the store does not listen: " + folder.resolve("store.log"));
                Thread.sleep(50);
            }
        }
    }

    /** The store's own authority is who the SDK believes. */
    void trust() throws Exception {
        var trusted = KeyStore.getInstance("PKCS12");
        trusted.load(null, null);
        try (var pem = Files.newInputStream(data.resolve("ca.pem"))) {
            trusted.setCertificateEntry("store", CertificateFactory.getInstance("X.509").generateCertificate(pem));
        }
        var file = folder.resolve("trust.p12");
        try (var to = Files.newOutputStream(file)) { trusted.store(to, "changeit".toCharArray()); }
        System.setProperty("javax.net.ssl.trustStore", file.toString());
        System.setProperty("javax.net.ssl.trustStorePassword", "changeit");
    }

    void kill() throws Exception {
        store.destroyForcibly().waitFor();
    }

    static String plain() { return "http://127.0.0.1:" + PORT; }

    ProfileCredentialsProvider key() { return new ProfileCredentialsProvider(data.resolve("admin.credentials").toString(), "default"); }

    /** What a producer is told. */
    static final class Told extends DefaultStreamCallbacks {
        final List<String> persisted = Collections.synchronizedList(new ArrayList<>());
        final List<String> errors = Collections.synchronizedList(new ArrayList<>());
        volatile boolean closed;
        @Override public void fragmentAckReceived(long handle, KinesisVideoFragmentAck ack) {
            int type = ack.getAckType().getIntType();
            if (type == FragmentAckType.FRAGMENT_ACK_TYPE_PERSISTED) persisted.add(ack.getSequenceNumber());
            if (type == FragmentAckType.FRAGMENT_ACK_TYPE_ERROR) errors.add(ack.getTimestamp() + ": " + ack.getResult());
        }
        @Override public void streamErrorReport(long handle, long at, long status) { errors.add(at + ": 0x" + Long.toHexString(status)); }
        @Override public void streamClosed(long handle) { closed = true; }
    }

    /** A way to the store that can be cut. */
    static final class Cut implements AutoCloseable {
        final java.net.ServerSocket door = new java.net.ServerSocket(0, 50, java.net.InetAddress.getLoopbackAddress());
        final List<Socket> open = Collections.synchronizedList(new ArrayList<>());
        Cut(int port) throws IOException {
            daemon(() -> {
                while (true) {
                    Socket near = door.accept(), far = new Socket("127.0.0.1", port);
                    for (var one : List.of(near, far)) { one.setTcpNoDelay(true); open.add(one); }
                    daemon(() -> near.getInputStream().transferTo(far.getOutputStream()));
                    daemon(() -> far.getInputStream().transferTo(near.getOutputStream()));
                }
            });
        }
        interface Work { void runs() throws IOException; }
        static void daemon(Work work) {
            var thread = new Thread(() -> { try { work.runs(); } catch (IOException cut) { /* is what it is for */ } });
            thread.setDaemon(true);
            thread.start();
        }
        String plain() { return "http://127.0.0.1:" + door.getLocalPort(); }
        void all() throws IOException { for (var one : List.copyOf(open)) one.close(); }
        public void close() throws IOException { door.close(); all(); }
    }

    KinesisVideoClient client(String endpoint, Told told) throws Exception {
        var configuration = KinesisVideoClientConfiguration.builder().withRegion(REGION).withEndpoint(endpoint)
            .withCredentialsProvider(new JavaCredentialsProviderImpl(key())).build();
        var device = new DeviceInfo(DeviceInfo.DEVICE_INFO_CURRENT_VERSION, "camera",
            new StorageInfo(0, StorageInfo.DeviceStorageType.DEVICE_STORAGE_TYPE_IN_MEM, 64 << 20, 90, "/"), 10, null);
        return KinesisVideoJavaClientFactory.createKinesisVideoClient(configuration, device, Executors.newScheduledThreadPool(2), told);
    }

    MediaSource images(String stream) {
        var source = new ImageFileMediaSource(stream);
        source.configure(new ImageFileMediaSourceConfiguration.Builder().fps(25).dir(media + "/data/h264/").filenameFormat("frame-%03d.h264")
            .startFileIndex(1).endFileIndex(PICTURES).build());
        return source;
    }

    MediaSource film(String stream) {
        var source = new AudioVideoFileMediaSource(stream);
        source.configure(new AudioVideoFileMediaSourceConfiguration.AudioVideoBuilder().withDir(media + "/data/audio-video-frames")
            .withRetentionPeriodInHours(2).withAbsoluteTimecode(true).withTrackInfoList(DemoTrackInfos.createTrackInfoList()).build());
        return source;
    }

    List<Fragment> listed(String stream) {
        var archive = AmazonKinesisVideoArchivedMediaClientBuilder.standard().withCredentials(key())
            .withEndpointConfiguration(new EndpointConfiguration(plain(), REGION)).build();
        return archive.listFragments(new ListFragmentsRequest().withStreamName(stream).withMaxResults(1000L)).getFragments();
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

    interface Meanwhile { void happens() throws Exception; }

    /** What a producer was told is kept is there, and it was told of all that it sent until it stopped. */
    List<Fragment> filmed(String endpoint, MediaSource source, String stream, int seconds, Meanwhile meanwhile) throws Exception {
        var told = new Told();
        var client = client(endpoint, told);
        client.registerMediaSource(source);
        source.start();
        Thread.sleep(seconds * 500L);
        meanwhile.happens();
        Thread.sleep(seconds * 500L);
        source.stop();
        // Fails by itself where the last acknowledgement or the end of them is not seen. No `free()`: the library crashes in it.
        client.unregisterMediaSource(source);
        var kept = listed(stream);
        var numbers = kept.stream().map(Fragment::getFragmentNumber).toList();
        check(told.closed && told.errors.isEmpty() && numbers.equals(told.persisted), told.errors + ", persisted " + told.persisted + ", kept " + numbers);
        return kept;
    }

    /** The library's pictures, 25 a fragment, over and over: all of their bytes, in order, once. */
    String whole(List<Fragment> kept, int least) throws Exception {
        check(kept.size() >= least, kept);
        int at = 0;
        for (var fragment : kept) {
            long bytes = 0;
            for (int n = 0; n < 25; n++, at++) bytes += Files.size(media.resolve("data/h264/frame-%03d.h264".formatted(at % PICTURES + 1)));
            boolean ended = at == kept.size() * 25;
            check(fragment.getFragmentSizeInBytes() == bytes || ended, "picture " + at + ": " + fragment + ", sent " + bytes);
        }
        return kept.size() + " fragments, none missing";
    }

    void run() throws Exception {
        serve();
        trust();
        promise("what is filmed is kept, and its producer told so until the end", () ->
            whole(filmed(plain(), images("images"), "images", 10, () -> { }), 9));
        promise("pictures and sound", () -> {
            // The library's own source sends thirty seconds in ten, and leaves out what it can't keep.
            return filmed(plain(), film("film"), "film", 10, () -> { }).size() + " fragments of some seconds";
        });
        promise("over TLS", () ->
            whole(filmed("https://localhost:" + TLS_PORT, images("tls"), "tls", 10, () -> { }), 9));
        promise("a store that is killed and back three seconds later has every fragment, once, also that which was on its way", () ->
            whole(filmed(plain(), images("killed"), "killed", 30, () -> { kill(); Thread.sleep(3000); serve(); }), 26));
        promise("a connection that is cut in the middle of a fragment", () -> {
            try (var cut = new Cut(PORT)) {
                return whole(filmed(cut.plain(), images("cut"), "cut", 20, cut::all), 18);
            }
        });
    }

    public static void main(String[] words) throws Exception {
        var producer = new Producer(Path.of(words[0]), Path.of(words[1]));
        Runtime.getRuntime().addShutdownHook(new Thread(() -> producer.store.destroyForcibly()));
        producer.run();
        System.exit(0);
    }
}
