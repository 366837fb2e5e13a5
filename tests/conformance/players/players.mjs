// Real players against a store: what is shown is what was filmed, picture by picture.
//
// KINESIN_DATA and KINESIN_PLAIN as in boto.py; ffmpeg films. Prints a line for each case and ends with 1 if one failed.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import * as mp4box from "mp4box";
import { browse } from "./browser.mjs";
import { camera, film } from "./camera.mjs";
import { RATE } from "./pattern.mjs";

const plain = process.env.KINESIN_PLAIN;
const credentials = readFileSync(`${process.env.KINESIN_DATA}/admin.credentials`, "utf8");
const value = (name) => credentials.match(new RegExp(`${name} *= *(.*)`))[1];
const authorization =
  "Basic " + Buffer.from(`${value("aws_access_key_id")}:${value("aws_secret_access_key")}`).toString("base64");
const NOON = Date.parse("2026-11-20T12:00:00Z");
const H264 = ["-c:v", "libx264", "-preset", "veryfast", "-g", "60", "-sc_threshold", "0"];
const SOUND = ["-f", "lavfi", "-i", "sine=frequency=440:sample_rate=48000", "-shortest", "-c:a", "aac"];

const { page, home, close } = await browse();
const at = (stream, path) => `${plain}/v1/video/${stream}${path}`;

async function call(stream, path, init = {}) {
  const response = await fetch(at(stream, path), { ...init, headers: { authorization, ...init.headers } });
  assert.ok(response.ok, `${path}: ${response.status} ${response.ok ? "" : await response.text()}`);
  return response;
}

async function put(stream, bytes, time) {
  await call(stream, `?producer_time=${time}`, { method: "POST", body: bytes });
}

async function urls(stream) {
  return (await call(stream, "/session", { method: "POST" })).json();
}

// Loads it, does what is said, and unloads it.
async function play(kind, url, act, config) {
  await page.goto(home);
  await page.evaluate((...words) => window.load(...words), kind, url, config);
  try {
    return await act();
  } finally {
    await page.evaluate(() => window.unload());
  }
}

// As the page's own `watch`, where the page is the store's.
function watchPlain(ms) {
  const video = document.getElementById("video");
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [160, 16];
  const pixels = canvas.getContext("2d", { willReadFrequently: true });
  const seen = [];
  const note = () => {
    pixels.drawImage(video, 0, 0, 160, 16);
    const { data } = pixels.getImageData(0, 8, 160, 1);
    let number = 0;
    for (let block = 0; block < 16; block++) number |= (data[4 * (block * 10 + 5)] > 127 ? 1 : 0) << block;
    seen.push([number, Date.now()]);
    video.requestVideoFrameCallback(note);
  };
  video.requestVideoFrameCallback(note);
  return new Promise((done) => setTimeout(() => done(seen), ms));
}

// The picture at a time. A busy Chromium sometimes stays with one of seconds later, and says so itself: then once more.
async function seek(time) {
  for (let more = 3; ; more--) {
    const [number, shown] = await page.evaluate((time) => window.seek(time), time);
    if (shown < time + 0.1 || more === 0) return number;
    console.log(`        the browser shows picture ${number}, which is of ${shown} s, at ${time} s`);
  }
}
const watch = (ms) => page.evaluate((ms) => window.watch(ms), ms);
// In the middle of a picture, counted from the first one.
const middle = (number) => (number + 0.5) / RATE;

// Players begin to count at the first picture or at zero.
async function seeks(numbers, start = 0) {
  for (const number of numbers) assert.equal(await seek(start + middle(number)), number, `picture ${number}`);
}

function strictly(url) {
  execFileSync("ffmpeg", ["-xerror", "-v", "error", "-i", url, "-f", "null", "-"], { stdio: ["ignore", "pipe", "inherit"] });
}

// What mp4box.js finds in a file: the number of samples of each track, by its kind.
function samples(...parts) {
  const file = mp4box.createFile();
  let offset = 0;
  file.onError = (error) => assert.fail(error);
  for (const part of parts) {
    const bytes = new Uint8Array(part).buffer;
    bytes.fileStart = offset;
    offset += bytes.byteLength;
    file.appendBuffer(bytes);
  }
  file.flush();
  const info = file.getInfo();
  return Object.fromEntries(info.tracks.map((track) => [track.type ?? track.name, track.nb_samples]));
}

const bytes = async (stream, path) => (await call(stream, path)).arrayBuffer();

const cases = {
  async "a browser shows the picture that was asked for, in every way in which it can play"() {
    await put("numbered", await film(0, 300, [...H264, "-bf", "2"], SOUND), NOON);
    const { vod, dash, file } = await urls("numbered");
    const order = [100, 0, 299, 59, 60, 61, 7, 180];
    await play("hls", plain + vod, () => seeks(order));
    await play("dash", `${plain}${dash}&to=newest`, () => seeks(order));
    await play("native", plain + file, () => seeks(order));
    for (const url of [plain + vod, `${plain}${dash}&to=newest`, plain + file]) strictly(url);
  },
  async "the first picture is shown whatever the millisecond in which it was filmed"() {
    // Of 15,360 units a second and floating point, hls.js makes times of these that lie before the first picture's.
    const bytes = await film(0, 90, [...H264, "-bf", "0"]);
    for (const ms of [0, 5, 10, 65]) {
      const stream = `filmed-${ms}`;
      await put(stream, bytes, NOON + ms);
      const { vod, live, dash } = await urls(stream);
      await play("hls", plain + vod, () => seeks([0, 31, 89]));
      await play("hls", plain + live, () => seeks([0, 31, 89]));
      await play("dash", `${plain}${dash}&to=newest`, () => seeks([0, 31, 89]));
    }
  },
  async "playing shows pictures in their order"() {
    const { vod, dash, file } = await urls("numbered");
    for (const [kind, url] of [["hls", plain + vod], ["dash", `${plain}${dash}&to=newest`], ["native", plain + file]]) {
      const seen = (await play(kind, url, () => watch(1500))).map(([number]) => number);
      assert.ok(seen.length > 5 && seen.every((number, n) => n === 0 || number >= seen[n - 1]), `${kind}: ${seen}`);
    }
  },
  async "another size in the middle of a stream is shown when its time comes"() {
    const words = [...H264, "-bf", "0"];
    await put("changes", await film(0, 120, words, SOUND), NOON);
    await put("changes", await film(120, 120, [...words, "-s", "640x360"], SOUND), NOON + 3600_000);
    const { vod, dash } = await urls("changes");
    // A player lets the second begin when the sound of the first has ended: some milliseconds later.
    const both = async () => {
      await seeks([10, 110]);
      const late = 130 - (await seek(middle(130)));
      assert.ok(late >= 0 && late < 3, `the second begins ${late} pictures late`);
      assert.equal(await seek(middle(230)), 230 - late);
      await seeks([50]);
    };
    await play("hls", plain + vod, both);
    await play("dash", `${plain}${dash}&to=newest`, both);
  },
  async "what is made is what mp4box.js counts, with all tracks and with one"() {
    const whole = samples(await bytes("numbered", "/range.mp4"));
    assert.equal(whole.video, 300);
    const playlist = await (await call("numbered", "/vod.m3u8")).text();
    const segments = playlist.split("\n").filter((line) => line.startsWith("segments/"));
    assert.equal(segments.length, 5);
    const of = async (more) => {
      const parts = [await bytes("numbered", `/init/0.mp4${more}`)];
      for (const segment of segments) parts.push(await bytes("numbered", `/${segment}${more.replace("?", "&")}`));
      return samples(...parts);
    };
    assert.deepEqual(await of(""), whole);
    assert.deepEqual(await of("?track=0"), { video: 300 });
    assert.deepEqual(await of("?track=audio"), { audio: whole.audio });
    const manifest = await (await call("numbered", "/manifest.mpd?to=newest")).text();
    const one = manifest.match(/startNumber="(\d+)"/)[1];
    const part = await bytes("numbered", `/sequence/${one}.m4s?track=1`);
    assert.ok(samples(await bytes("numbered", "/init/0.mp4?track=1"), part).audio > 80);
  },
  async "what is live is seen while it is filmed, a little later"() {
    const fast = ["-c:v", "libx264", "-preset", "ultrafast", "-tune", "zerolatency", "-g", "60", "-keyint_min", "60",
      "-sc_threshold", "0"];
    const live = camera(at("live", "?part_ms=200"), authorization, fast);
    await new Promise((done) => setTimeout(done, 5000));
    const { live: hls, dash, player } = await urls("live");
    const lines = [];
    const delay = async (name, seen) => {
      const late = seen.slice(seen.length / 3).map(([number, shown]) => shown - live.captured[number]).sort((a, b) => a - b);
      assert.ok(late.length > 10 && late[0] >= 0, `${name}: ${JSON.stringify(seen.slice(0, 5))} ${JSON.stringify(await page.evaluate(() => window.state?.()))}`);
      lines.push(`glass to glass, ${name}: ${late[Math.floor(late.length / 2)]} ms (at most ${late.at(-1)} ms), 2 s between key frames`);
    };
    await delay("low-latency HLS (hls.js)", await play("hls", plain + hls, () => watch(6000), { lowLatencyMode: true }));
    await delay("DASH (dash.js)", await play("dash", plain + dash, () => watch(6000)));
    await page.goto(plain + player);
    await page.waitForFunction(() => document.getElementById("video").readyState >= 3, { timeout: 30000 });
    await delay("the player page", await page.evaluate(watchPlain, 6000));
    // A list that is long enough is told in deltas, and plays as well.
    const deltas = [];
    const note = (request) => request.url().includes("_HLS_skip=YES") && deltas.push(request.url());
    page.on("request", note);
    const long = `${plain}${hls}&window=60`;
    await delay("the same in deltas", await play("hls", long, () => watch(6000), { lowLatencyMode: true }));
    page.off("request", note);
    assert.ok(deltas.length > 5, `${deltas.length} deltas were asked for`);
    assert.match(await (await fetch(deltas.at(-1))).text(), /\n#EXT-X-SKIP:SKIPPED-SEGMENTS=\d+\n/);
    const told = (await live.stop()).trim().split("\n").map((line) => JSON.parse(line));
    const list = (await (await call("live", "/live.m3u8")).text()).split("\n");
    assert.ok(!list.some((line) => line.startsWith("#EXT-X-PART")), "nobody sends parts any more");
    assert.equal(told.at(-1).frames, live.captured.length);
    for (const line of lines) console.log(`        ${line}`);
    const { vod } = await urls("live");
    strictly(plain + vod);
    await play("hls", plain + vod, () => seeks([100, 3, 60, 59]));
    await play("dash", `${plain}${dash}&to=newest`, () => seeks([100, 3, 60, 59]));
  },
  async "a codec that the browser has no decoder for is said"() {
    const words = ["-c:v", "libx265", "-x265-params", "log-level=none:keyint=30", "-tag:v", "hvc1"];
    await put("unknown", await film(0, 60, words), NOON);
    const { player } = await urls("unknown");
    await page.goto(plain + player);
    await page.waitForFunction(() => document.getElementById("said").textContent !== "", { timeout: 30000 });
    const said = await page.$eval("#said", (said) => said.textContent);
    assert.match(said, /no decoder for hvc1/);
  },
};

let failed = 0;
const only = process.argv[2] ?? "";
for (const [name, run] of Object.entries(cases)) {
  if (!name.includes(only)) continue;
  const began = Date.now();
  try {
    await run();
    console.log(`ok      ${name} (${Date.now() - began} ms)`);
  } catch (error) {
    failed++;
    console.log(`FAILED  ${name}\n${error.stack}`);
  }
}
await close();
process.exit(failed > 0 ? 1 : 0);
