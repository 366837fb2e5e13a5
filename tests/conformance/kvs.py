"""boto3, and PutMedia by hand (no SDK for Python has it), against the Kinesis Video Streams API.

Needs ffmpeg: it films, and ffprobe says what every frame is. Run as boto.py is; see common.py.
"""

import base64
import http.client
import json
import re
import socket
import ssl
import subprocess
import tempfile
import threading
import time
import urllib.parse
import urllib.request
from xml.etree import ElementTree

import boto3
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config

from common import OTHER_ACCOUNT, case, credentials, data, endpoint, plain, refused, run

CLUSTER, EBML = b"\x1f\x43\xb6\x75", b"\x1a\x45\xdf\xa3"
START = 1_795_176_000


def client(service, url=endpoint, profile=None):
    config = Config(retries={"max_attempts": 0})
    session = boto3.Session(profile_name=profile)
    return session.client(service, endpoint_url=url, region_name="local-1", verify=f"{data}/ca.pem", config=config)


kv = client("kinesisvideo")
media, archive = client("kinesis-video-media"), client("kinesis-video-archived-media")


def tool(name, *words):
    return subprocess.run([name, "-v", "error", *words], check=True, stdout=subprocess.PIPE).stdout


def film(seconds=6, more=()):
    """Matroska as producers send it: from START on, a cluster for each second."""
    return tool(
        "ffmpeg", "-f", "lavfi", "-i", "testsrc2=size=320x180:rate=30", "-f", "lavfi", "-i", "sine=sample_rate=48000",
        "-t", str(seconds), "-c:v", "libx264", "-preset", "veryfast", "-g", "30", "-bf", "2", "-c:a", "aac", *more,
        "-f", "matroska", "-live", "1", "-output_ts_offset", str(START), "-cluster_time_limit", "20000",
        "-cluster_size_limit", "10000000", "-")


def packets(mkv, kind="v"):
    with tempfile.NamedTemporaryFile(suffix=".mkv") as file:
        file.write(mkv)
        file.flush()
        told = tool("ffprobe", "-select_streams", kind, "-show_packets", "-show_data_hash", "md5", "-of", "json", file.name)
    return [(p["pts"], p["flags"][0], p["data_hash"]) for p in json.loads(told)["packets"]]


class Put:
    """A connection of a producer: `send` pieces, and `acks` are there as they come."""

    def __init__(self, stream, url=plain, kind="ABSOLUTE", start=f"{START}.000", line="/putMedia", **more):
        at = urllib.parse.urlsplit(url)
        headers = {
            "x-amzn-stream-name": stream, "x-amzn-fragment-timecode-type": kind,
            "x-amzn-producer-start-timestamp": start, "x-amzn-fragment-acknowledgment-required": "1",
            "transfer-encoding": "chunked", **more}
        request = AWSRequest("POST", f"{url}/putMedia", headers=headers, data=b"")
        SigV4Auth(credentials(), "kinesisvideo", "local-1").add_auth(request)
        if at.scheme == "https":
            trusted = ssl.create_default_context(cafile=f"{data}/ca.pem")
            self.connection = http.client.HTTPSConnection(at.hostname, at.port, timeout=30, context=trusted)
        else:
            self.connection = http.client.HTTPConnection(at.hostname, at.port, timeout=30)
        self.connection.putrequest("POST", line, skip_accept_encoding=True)
        for name, value in request.headers.items():
            if name.lower() != "host":
                self.connection.putheader(name, value)
        self.connection.endheaders()
        self.acks, self.answer = [], None

    def open(self):
        """The answer comes before anything was sent."""
        self.answer = self.connection.getresponse()
        if self.answer.status == 200:
            self.reader = threading.Thread(target=self.read)
            self.reader.start()
        return self

    def read(self):
        try:
            for line in iter(self.answer.readline, b""):
                self.acks.append(json.loads(line))
        except (AttributeError, OSError, http.client.HTTPException, ValueError):
            # It was closed meanwhile, by us or by the store.
            pass

    def send(self, piece):
        self.connection.send(b"%x\r\n%s\r\n" % (len(piece), piece))
        return self

    def end(self):
        self.connection.send(b"0\r\n\r\n")
        self.reader.join(30)
        return self.acks

    def wait(self, kind, count):
        for _ in range(1000):
            if len(self.of(kind)) >= count:
                return self.of(kind)
            time.sleep(0.01)
        raise AssertionError(f"{count} times {kind} were expected: {self.acks}")

    def of(self, kind):
        return [ack for ack in self.acks if ack["EventType"] == kind]


def put(stream, mkv, **more):
    producer = Put(stream, **more).open()
    for at in range(0, len(mkv), 50_000):
        producer.send(mkv[at:at + 50_000])
    return producer.end()


def persisted(acks):
    assert not [ack for ack in acks if ack["EventType"] == "ERROR"], acks
    return [ack["FragmentNumber"] for ack in acks if ack["EventType"] == "PERSISTED"]


def make(name, **more):
    kv.create_stream(StreamName=name, DataRetentionInHours=24, **more)
    return name


@case
def a_stream_is_made_described_changed_and_deleted():
    arn = kv.create_stream(
        StreamName="life", DataRetentionInHours=2, DeviceName="cam", MediaType="video/h264", Tags={"a": "1"})["StreamARN"]
    assert re.fullmatch(r"arn:aws:kinesisvideo:local-1:\d{12}:stream/life/\d{13}", arn), arn
    info = kv.describe_stream(StreamName="life")["StreamInfo"]
    assert info == kv.describe_stream(StreamARN=arn)["StreamInfo"]
    assert (info["Status"], info["DataRetentionInHours"], info["DeviceName"]) == ("ACTIVE", 2, "cam")
    assert abs(info["CreationTime"].timestamp() - time.time()) < 60
    refused("ResourceInUseException", kv.create_stream, StreamName="life")
    change = dict(StreamName="life", Operation="INCREASE_DATA_RETENTION", DataRetentionChangeInHours=3)
    kv.update_data_retention(CurrentVersion=info["Version"], **change)
    refused("VersionMismatchException", kv.update_data_retention, CurrentVersion=info["Version"], **change)
    info = kv.describe_stream(StreamName="life")["StreamInfo"]
    assert info["DataRetentionInHours"] == 5
    change["Operation"] = "DECREASE_DATA_RETENTION"
    kv.update_data_retention(CurrentVersion=info["Version"], **change)
    info = kv.describe_stream(StreamName="life")["StreamInfo"]
    assert info["DataRetentionInHours"] == 2
    change["DataRetentionChangeInHours"] = 3
    refused("InvalidArgumentException", kv.update_data_retention, CurrentVersion=info["Version"], **change)
    kv.update_stream(StreamName="life", CurrentVersion=info["Version"], MediaType="video/h265")
    assert kv.describe_stream(StreamName="life")["StreamInfo"]["MediaType"] == "video/h265"
    kv.delete_stream(StreamARN=arn)
    refused("ResourceNotFoundException", kv.describe_stream, StreamName="life")
    make("life")
    refused("ResourceNotFoundException", kv.describe_stream, StreamARN=arn)


@case
def streams_are_listed_by_their_names_and_pages():
    for name in ["list-a", "list-b", "list-c"]:
        make(name)
    named = lambda **more: kv.list_streams(
        StreamNameCondition={"ComparisonOperator": "BEGINS_WITH", "ComparisonValue": "list-"}, **more)
    first = named(MaxResults=2)
    assert [info["StreamName"] for info in first["StreamInfoList"]] == ["list-a", "list-b"]
    rest = named(NextToken=first["NextToken"])
    assert [info["StreamName"] for info in rest["StreamInfoList"]] == ["list-c"] and "NextToken" not in rest
    other = client("kinesisvideo", profile="other")
    assert other.list_streams()["StreamInfoList"] == []
    arn = other.create_stream(StreamName="list-a")["StreamARN"]
    assert OTHER_ACCOUNT in arn
    refused("ResourceNotFoundException", kv.describe_stream, StreamARN=arn)


@case
def tags_are_put_taken_and_listed():
    make("video-tags", Tags={"a": "1"})
    arn = kv.describe_stream(StreamName="video-tags")["StreamInfo"]["StreamARN"]
    kv.tag_stream(StreamName="video-tags", Tags={"b": "2"})
    kv.tag_resource(ResourceARN=arn, Tags=[{"Key": "c", "Value": "3"}])
    assert kv.list_tags_for_stream(StreamARN=arn)["Tags"] == {"a": "1", "b": "2", "c": "3"}
    kv.untag_stream(StreamName="video-tags", TagKeyList=["a"])
    kv.untag_resource(ResourceARN=arn, TagKeyList=["b", "x"])
    assert kv.list_tags_for_resource(ResourceARN=arn)["Tags"] == {"c": "3"}
    many = {f"k{n}": "" for n in range(50)}
    refused("TagsPerResourceExceededLimitException", kv.tag_stream, StreamName="video-tags", Tags=many)


@case
def media_goes_where_the_store_is():
    make("where")
    for api in ["PUT_MEDIA", "GET_MEDIA", "LIST_FRAGMENTS", "GET_CLIP"]:
        assert kv.get_data_endpoint(StreamName="where", APIName=api)["DataEndpoint"] == endpoint
    assert client("kinesisvideo", plain).get_data_endpoint(StreamName="where", APIName="PUT_MEDIA")["DataEndpoint"] == plain
    refused("ResourceNotFoundException", kv.get_data_endpoint, StreamName="nowhere", APIName="PUT_MEDIA")


@case
def each_fragment_is_acknowledged_while_more_is_sent():
    make("acks")
    mkv = film()
    clusters = [at.start() for at in re.finditer(CLUSTER, mkv)]
    assert len(clusters) == 6, clusters
    producer = Put("acks").open()
    producer.send(mkv[:clusters[1]])
    producer.wait("BUFFERING", 1)
    assert not producer.of("PERSISTED")
    for n in range(1, 6):
        end = clusters[n + 1] if n < 5 else len(mkv)
        producer.send(mkv[clusters[n]:end])
        producer.wait("PERSISTED", n)
        assert len(producer.of("BUFFERING")) == n + 1
    acks = producer.end()
    numbers = persisted(acks)
    assert len(numbers) == 6 and numbers == sorted(numbers) and len(numbers[0]) == 47
    times = [ack["FragmentTimecode"] for ack in acks if ack["EventType"] == "PERSISTED"]
    assert times == [ack["FragmentTimecode"] for ack in acks if ack["EventType"] == "RECEIVED"]
    assert [round(at / 1000) for at in times] == [START + n for n in range(6)], times
    # What is sent again is the same: in whole, or from the middle on.
    assert persisted(put("acks", mkv)) == numbers
    assert persisted(put("acks", mkv, url=endpoint)) == numbers
    assert persisted(put("acks", mkv[:clusters[0]] + mkv[clusters[3]:])) == numbers[3:]
    fragments = archive.list_fragments(StreamName="acks")["Fragments"]
    assert [fragment["FragmentNumber"] for fragment in fragments] == numbers


@case
def a_producer_that_breaks_off_sends_again_what_was_not_acknowledged():
    make("breaks")
    mkv = film()
    clusters = [at.start() for at in re.finditer(CLUSTER, mkv)]
    producer = Put("breaks").open()
    producer.send(mkv[:clusters[3] + 2000])
    first = [ack["FragmentNumber"] for ack in producer.wait("PERSISTED", 2)]
    producer.connection.sock.shutdown(socket.SHUT_RDWR)
    producer.connection.close()
    # The SDK goes on without a header after that, once.
    raw = Put("breaks").open()
    raw.send(mkv[clusters[3] + 2000:clusters[4]])
    errors = raw.wait("ERROR", 1)
    assert (errors[0]["ErrorId"], errors[0]["ErrorCode"]) == (4006, "INVALID_MKV_DATA")
    numbers = persisted(put("breaks", mkv))
    assert numbers[:2] == first[:2] and len(numbers) == 6
    got = everything("breaks")
    assert [p[2] for p in got] == [p[2] for p in packets(mkv)]


def everything(stream):
    """All pictures of a stream, document by document."""
    numbers = [f["FragmentNumber"] for f in archive.list_fragments(StreamName=stream)["Fragments"]]
    answer = archive.get_media_for_fragment_list(StreamName=stream, Fragments=numbers)
    documents = answer["Payload"].read().split(EBML)[1:]
    assert len(documents) == len(numbers)
    for number, document in zip(numbers, documents):
        tags = names_and_values(document)
        # The first two as they are documented, the others as the parser library for Java looks for them.
        times = [tags[f"{kind}_TIMESTAMP"] for kind in ("SERVER_SIDE", "PRODUCER_SIDE", "SERVER", "PRODUCER")]
        assert tags["FRAGMENT_NUMBER"] == number and times[:2] == times[2:], tags
    return [packet for document in documents for packet in packets(EBML + document)]


@case
def what_is_wrong_is_told_by_its_number():
    make("wrong")
    mkv = film(2)
    refused("ResourceNotFoundException", media.get_media, StreamName="none", StartSelector={"StartSelectorType": "NOW"})
    told = lambda more: [ack["ErrorId"] for ack in put("wrong", more) if ack["EventType"] == "ERROR"]
    clusters = [at.start() for at in re.finditer(CLUSTER, mkv)]
    assert told(b"GET / HTTP/1.1\r\n\r\n") == [4006]
    assert told(mkv[:clusters[0]] + mkv[clusters[1]:] + mkv[clusters[0]:clusters[1]]) == [4004]
    assert told(mkv[:clusters[0]] + b"\xa3\x85\x81\0\0\0\0") == [4006]
    missing = Put("none").connection.getresponse()
    assert (missing.status, missing.headers["x-amzn-ErrorType"]) == (404, "ResourceNotFoundException")
    kind = Put("wrong", kind="SOMETIME").connection.getresponse()
    assert (kind.status, kind.headers["x-amzn-ErrorType"]) == (400, "InvalidArgumentException")


@case
def times_may_count_from_the_start_of_the_producer():
    make("relative")
    # Its times are from START on, and the producer says that it began at 1000.
    numbers = persisted(put("relative", film(3), kind="RELATIVE", start="1000.000"))
    fragments = archive.list_fragments(StreamName="relative")["Fragments"]
    assert [f["FragmentNumber"] for f in fragments] == numbers
    assert round(fragments[0]["ProducerTimestamp"].timestamp()) == START + 1000


@case
def a_producer_that_names_the_whole_address_and_says_that_it_streams_is_taken():
    """As the PutMedia client of the SDK for Java 1.12 does; tests/conformance/java has that one itself."""
    make("java")
    told = {"x-amz-content-sha256": "STREAMING-AWS4-HMAC-SHA256-PAYLOAD", "user-agent": "aws-sdk-java/1.12  NettyPutMedia"}
    mkv = film(3)
    acks = put("java", mkv, start="2026-11-20T12:00:00.000Z", line=f"{plain}/putMedia", **told)
    assert len(persisted(acks)) == 3, acks


def names_and_values(document):
    """The SimpleTags of the service in some bytes."""
    found = re.findall(rb"\x67\xc8.\x45\xa3.AWS_KINESISVIDEO_([A-Z_]+)\x44\x87(.)", document, re.S)
    values = {}
    for name, length in found:
        at = document.index(b"AWS_KINESISVIDEO_" + name + b"\x44\x87" + length) + 17 + len(name) + 3
        values[name.decode()] = document[at:at + (length[0] & 0x7f)].decode()
    return values


def documents_of(payload, count):
    """The first documents of an answer that does not end, each whole."""
    got = b""
    while len(re.findall(rb"CONTINUATION_TOKEN\x44\x87\xaf[0-9]{47}", got)) < count:
        got += payload._raw_stream.read1(10_000)
    return [EBML + document for document in got.split(EBML)[1:]][:count]


@case
def media_is_got_from_anywhere_with_the_tags_of_the_service():
    make("get")
    mkv = film(4)
    numbers = persisted(put("get", mkv))
    fragments = archive.list_fragments(StreamName="get")["Fragments"]

    def first(**selector):
        answer = media.get_media(StreamName="get", StartSelector=selector)
        document = documents_of(answer["Payload"], 1)[0]
        answer["Payload"].close()
        return names_and_values(document)

    tags = first(StartSelectorType="EARLIEST")
    assert tags["FRAGMENT_NUMBER"] == tags["CONTINUATION_TOKEN"] == numbers[0], tags
    assert abs(float(tags["PRODUCER_TIMESTAMP"]) - START) < 0.1 and int(tags["MILLIS_BEHIND_NOW"]) >= 0
    assert abs(float(tags["SERVER_TIMESTAMP"]) - time.time()) < 60
    assert first(StartSelectorType="FRAGMENT_NUMBER", AfterFragmentNumber=numbers[1])["FRAGMENT_NUMBER"] == numbers[2]
    assert first(StartSelectorType="CONTINUATION_TOKEN", ContinuationToken=numbers[0])["FRAGMENT_NUMBER"] == numbers[1]
    assert first(StartSelectorType="NOW")["FRAGMENT_NUMBER"] == numbers[3]
    at = fragments[2]["ProducerTimestamp"]
    assert first(StartSelectorType="PRODUCER_TIMESTAMP", StartTimestamp=at)["FRAGMENT_NUMBER"] == numbers[2]
    at = fragments[0]["ServerTimestamp"]
    assert first(StartSelectorType="SERVER_TIMESTAMP", StartTimestamp=at)["FRAGMENT_NUMBER"] == numbers[0]
    answer = media.get_media(StreamName="get", StartSelector={"StartSelectorType": "EARLIEST"})
    documents = documents_of(answer["Payload"], 4)
    before, after = packets(mkv), [p for document in documents for p in packets(document)]
    assert [p[1:] for p in after] == [p[1:] for p in before]
    assert [p[0] for p in after] == [p[0] for p in before]
    # What comes is given too: the next one while this connection waits.
    later = subprocess.run(
        ["ffmpeg", "-v", "error", "-i", "-", "-c", "copy", "-f", "matroska", "-live", "1", "-output_ts_offset", "100", "-"],
        input=mkv, stdout=subprocess.PIPE, check=True).stdout
    threading.Thread(target=put, args=("get", later)).start()
    assert len(documents_of(answer["Payload"], 1)) == 1
    answer["Payload"].close()


@case
def fragments_are_listed_by_either_clock_and_clips_and_playlists_made_of_them():
    make("archive")
    mkv = film(6)
    numbers = persisted(put("archive", mkv))
    span = lambda kind, start, end: {
        "FragmentSelectorType": kind, "TimestampRange": {"StartTimestamp": start, "EndTimestamp": end}}
    some = archive.list_fragments(
        StreamName="archive", FragmentSelector=span("PRODUCER_TIMESTAMP", START + 0.9, START + 3.5))["Fragments"]
    assert [f["FragmentNumber"] for f in some] == numbers[1:4]
    assert all(abs(f["FragmentLengthInMilliseconds"] - 1000) < 50 and f["FragmentSizeInBytes"] > 1000 for f in some)
    page = archive.list_fragments(StreamName="archive", MaxResults=4)
    rest = archive.list_fragments(StreamName="archive", NextToken=page["NextToken"])
    assert [f["FragmentNumber"] for f in page["Fragments"] + rest["Fragments"]] == numbers
    now = time.time()
    assert len(archive.list_fragments(StreamName="archive", FragmentSelector=span("SERVER_TIMESTAMP", now - 60, now))["Fragments"]) == 6
    clip = archive.get_clip(
        StreamName="archive", ClipFragmentSelector=span("PRODUCER_TIMESTAMP", START + 0.9, START + 3.5))
    assert clip["ContentType"] == "video/mp4"
    got = packets(clip["Payload"].read())
    assert [p[2] for p in got] == [p[2] for p in packets(mkv)][30:120]
    plain_archive = client("kinesis-video-archived-media", plain)
    for how in [
        dict(PlaybackMode="LIVE"),
        dict(PlaybackMode="ON_DEMAND", HLSFragmentSelector=span("PRODUCER_TIMESTAMP", START - 1, START + 9)),
    ]:
        url = plain_archive.get_hls_streaming_session_url(StreamName="archive", MaxMediaPlaylistFragmentResults=100, **how)
        playlist = urllib.request.urlopen(url["HLSStreamingSessionURL"]).read().decode()
        assert playlist.count("#EXTINF") == 6, playlist
    tool("ffmpeg", "-xerror", "-i", url["HLSStreamingSessionURL"], "-f", "null", "-")
    refused(
        "ResourceNotFoundException", archive.get_clip, StreamName="archive",
        ClipFragmentSelector=span("PRODUCER_TIMESTAMP", START + 100, START + 200))


DASH = "{urn:mpeg:dash:schema:mpd:2011}"


def manifest(url):
    return ElementTree.fromstring(urllib.request.urlopen(url).read())


@case
def sessions_of_dash_are_live_replayed_and_on_demand():
    make("dash")
    numbers = persisted(put("dash", film(6)))
    plain_archive = client("kinesis-video-archived-media", plain)
    session = lambda **more: plain_archive.get_dash_streaming_session_url(StreamName="dash", **more)["DASHStreamingSessionURL"]
    span = lambda start, end, kind="PRODUCER_TIMESTAMP": {
        "FragmentSelectorType": kind, "TimestampRange": {"StartTimestamp": start, **({"EndTimestamp": end} if end else {})}}
    mpd = manifest(session(MaxManifestFragmentResults=100))
    assert mpd.get("type") == "dynamic" and len(list(mpd.iter(f"{DASH}S"))) == 12
    url = session(
        PlaybackMode="ON_DEMAND", DASHFragmentSelector=span(START + 0.9, START + 3.5),
        DisplayFragmentNumber="ALWAYS", DisplayFragmentTimestamp="ALWAYS")
    mpd = manifest(url)
    sets = list(mpd.iter(f"{DASH}AdaptationSet"))
    assert mpd.get("type") == "static" and [one.get("contentType") for one in sets] == ["video", "audio"]
    named = [next(value for name, value in s.items() if name.endswith("}fn")) for s in sets[0].iter(f"{DASH}S")]
    times = [next(value for name, value in s.items() if name.endswith("}ts")) for s in sets[0].iter(f"{DASH}S")]
    assert named == numbers[1:4] and [round(float(at)) - START for at in times] == [1, 2, 3], (named, times)
    tool("ffmpeg", "-xerror", "-i", url, "-fps_mode", "passthrough", "-enc_time_base", "1/1000", "-f", "null", "-")
    # A replay has its first fragments at once, and the others come as they came.
    for archived, name in [(session, "dash"), (lambda **more: plain_archive.get_hls_streaming_session_url(
            StreamName="dash", **more)["HLSStreamingSessionURL"], "hls")]:
        selector = "DASHFragmentSelector" if name == "dash" else "HLSFragmentSelector"
        url = archived(PlaybackMode="LIVE_REPLAY", **{selector: span(START + 0.9, None)})
        there = lambda: urllib.request.urlopen(url).read().decode().count('<S ' if name == "dash" else "#EXTINF")
        first, each = there(), 2 if name == "dash" else 1
        assert first in (3 * each, 4 * each), first
        for _ in range(100):
            if there() > first:
                break
            time.sleep(0.1)
        assert there() > first
    refused("InvalidArgumentException", session, PlaybackMode="SOMETIME")
    refused("InvalidArgumentException", session, PlaybackMode="ON_DEMAND")
    refused("InvalidArgumentException", session, PlaybackMode="LIVE_REPLAY")
    refused("InvalidArgumentException", session, Expires=43_201)
    refused("InvalidArgumentException", session, MaxManifestFragmentResults=5001)
    refused("InvalidArgumentException", session, DisplayFragmentNumber="MAYBE")
    refused("ResourceNotFoundException", session, PlaybackMode="ON_DEMAND", DASHFragmentSelector=span(START + 99, START + 199))
    make("empty")
    refused("ResourceNotFoundException", plain_archive.get_dash_streaming_session_url, StreamName="empty")


@case
def a_fragment_that_was_stored_in_parts_is_one():
    mkv, bodies = film(5), {}
    for stream, more in [("in-parts", "&part_ms=200"), ("in-one", "")]:
        key = credentials()
        basic = base64.b64encode(f"{key.access_key}:{key.secret_key}".encode()).decode()
        request = urllib.request.Request(
            f"{plain}/v1/video/{stream}?producer_time={START}000{more}", data=mkv, headers={"authorization": f"Basic {basic}"})
        told = json.loads(urllib.request.urlopen(request).read())
        fragments = archive.list_fragments(StreamName=stream)["Fragments"]
        assert (told["fragments"] > 2 * len(fragments)) == (stream == "in-parts"), told
        numbers = [f["FragmentNumber"] for f in fragments]
        seen = [(f["FragmentNumber"], f["FragmentSizeInBytes"], f["FragmentLengthInMilliseconds"]) for f in fragments]
        page = archive.list_fragments(StreamName=stream, MaxResults=2)
        rest = archive.list_fragments(StreamName=stream, NextToken=page["NextToken"])
        assert [f["FragmentNumber"] for f in page["Fragments"] + rest["Fragments"]] == numbers
        answer = media.get_media(
            StreamName=stream, StartSelector={"StartSelectorType": "FRAGMENT_NUMBER", "AfterFragmentNumber": numbers[1]})
        document = documents_of(answer["Payload"], 1)[0]
        answer["Payload"].close()
        assert names_and_values(document)["FRAGMENT_NUMBER"] == numbers[2]
        bodies[stream] = seen, everything(stream), packets(document)
    assert bodies["in-parts"] == bodies["in-one"]


@case
def a_producer_for_the_service_sends_parts_where_a_tag_of_its_stream_says_so():
    mkv = film(6)
    make("by-tag", Tags={"kinesin:part_ms": "200"})
    make("by-tag-whole")
    clusters = [at.start() for at in re.finditer(CLUSTER, mkv)]
    producer = Put("by-tag").open()
    # Most of a cluster: it is no fragment yet, and its frames can be read.
    producer.send(mkv[:clusters[1] + (clusters[2] - clusters[1]) * 9 // 10])
    producer.wait("PERSISTED", 1)
    basic = base64.b64encode(f"{credentials().access_key}:{credentials().secret_key}".encode()).decode()

    def ask(path):
        request = urllib.request.Request(f"{plain}/v1/video/by-tag{path}", headers={"authorization": f"Basic {basic}"})
        return urllib.request.urlopen(request).read().decode()

    for _ in range(1000):
        if ask("/frames?meta=1&count=1000").count("\n") > 30:
            break
        time.sleep(0.01)
    frames = ask("/frames?meta=1&count=1000").count("\n")
    assert 30 < frames < 60 and len(producer.of("PERSISTED")) == 1, (frames, producer.acks)
    assert "#EXT-X-PART:" in ask("/live.m3u8"), ask("/live.m3u8")
    # It breaks off there and sends again what it heard nothing of.
    producer.connection.sock.shutdown(socket.SHUT_RDWR)
    producer.connection.close()
    numbers = persisted(put("by-tag", mkv[:clusters[0]] + mkv[clusters[1]:]))
    assert len(numbers) == 5, numbers
    persisted(put("by-tag-whole", mkv))
    listed = [[f["FragmentLengthInMilliseconds"] for f in archive.list_fragments(StreamName=stream)["Fragments"]]
              for stream in ("by-tag", "by-tag-whole")]
    assert listed[0] == listed[1] and len(listed[0]) == 6, listed
    assert [p[2] for p in everything("by-tag")] == [p[2] for p in packets(mkv)]
    make("by-tag-wrong", Tags={"kinesin:part_ms": "soon"})
    assert Put("by-tag-wrong").open().answer.status == 400


@case
def mkvinfo_finds_nothing_wrong_in_what_is_given():
    make("judged")
    numbers = persisted(put("judged", film(3)))
    answer = archive.get_media_for_fragment_list(StreamName="judged", Fragments=numbers)
    for document in answer["Payload"].read().split(EBML)[1:]:
        with tempfile.NamedTemporaryFile(suffix=".mkv") as file:
            file.write(EBML + document)
            file.flush()
            told = subprocess.run(
                ["mkvinfo", "--all", file.name], check=True, stdout=subprocess.PIPE, text=True, env={"LC_ALL": "C.UTF-8"}).stdout
        assert "(Unknown" not in told and "rror" not in told, told
        frames = len(re.findall(r"[Ss]imple block|[Bb]lock group", told))
        with_ffprobe = len(packets(EBML + document)) + len(packets(EBML + document, "a"))
        assert frames == with_ffprobe, (frames, with_ffprobe)


@case
def pictures_are_made_at_regular_times():
    make("images")
    put("images", film(4))
    pictures = lambda **more: archive.get_images(
        StreamName="images", ImageSelectorType="PRODUCER_TIMESTAMP", SamplingInterval=1000, Format="JPEG",
        WidthPixels=160, **more)
    answer = pictures(StartTimestamp=START + 0.5, EndTimestamp=START + 3.5)
    images = answer["Images"]
    assert len(images) == 4 and len({image["ImageContent"] for image in images}) == 4
    assert [round(image["TimeStamp"].timestamp() - START, 1) for image in images] == [0.5, 1.5, 2.5, 3.5]
    for image in images:
        content = image["ImageContent"]
        assert base64.b64decode(content)[:2] == b"\xff\xd8"
    page = pictures(StartTimestamp=START, EndTimestamp=START + 3, MaxResults=3)
    assert len(page["Images"]) == 3
    rest = pictures(StartTimestamp=START, EndTimestamp=START + 3, MaxResults=3, NextToken=page["NextToken"])
    assert len(rest["Images"]) == 1 and "NextToken" not in rest
    none = pictures(StartTimestamp=START + 1000, EndTimestamp=START + 1000)["Images"]
    assert [image["Error"] for image in none] == ["NO_MEDIA"]


run()
