// Cameras: films of numbered pictures that ffmpeg encodes, all at once or in real time.
import { spawn } from "node:child_process";
import { request } from "node:http";
import { INPUT, RATE, picture } from "./pattern.mjs";

const MP4 = ["-movflags", "frag_keyframe+delay_moov+default_base_moof", "-f", "mp4", "-"];

function ffmpeg(words) {
  const child = spawn("ffmpeg", ["-v", "error", ...words], { stdio: ["pipe", "pipe", "inherit"] });
  // It may end before it has read everything.
  child.stdin.on("error", () => {});
  return child;
}

async function all(stream) {
  const pieces = [];
  for await (const piece of stream) pieces.push(piece);
  return Buffer.concat(pieces);
}

// Fragmented MP4: so many pictures from a number on, with sound if there are words for it.
export async function film(first, count, words, sound = []) {
  const child = ffmpeg([...INPUT, "-i", "-", ...sound, "-pix_fmt", "yuv420p", ...words, ...MP4]);
  const made = all(child.stdout);
  for (let n = 0; n < count; n++) child.stdin.write(picture(first + n));
  child.stdin.end();
  return made;
}

// A camera that films now and sends at once; `captured` has when each picture was made.
export function camera(url, authorization, words) {
  const child = ffmpeg([
    ...INPUT, "-use_wallclock_as_timestamps", "0", "-i", "-", "-pix_fmt", "yuv420p", ...words,
    "-movflags", "empty_moov+default_base_moof+frag_every_frame", "-flush_packets", "1", "-f", "mp4", "-",
  ]);
  const put = request(url, { method: "POST", headers: { authorization, "transfer-encoding": "chunked" } });
  const answered = new Promise((done, failed) => {
    put.on("response", (response) => all(response).then((body) => done(body.toString()), failed));
    put.on("error", failed);
  });
  child.stdout.pipe(put);
  const captured = [];
  const began = Date.now();
  const timer = setInterval(() => {
    while (captured.length * 1000 <= (Date.now() - began) * RATE) {
      child.stdin.write(picture(captured.length));
      captured.push(Date.now());
    }
  }, 5);
  const stop = async () => {
    clearInterval(timer);
    child.stdin.end();
    return answered;
  };
  return { captured, stop };
}
