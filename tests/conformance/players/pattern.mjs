// Pictures that say their own number: sixteen blocks from left to right, each white or black as the bit that it stands
// for. A browser reads them back from the pixels that it shows.
export const [WIDTH, HEIGHT, BLOCKS, RATE] = [320, 180, 16, 30];

// The picture with a number, a byte for each pixel.
export function picture(number) {
  const row = Buffer.alloc(WIDTH);
  for (let x = 0; x < WIDTH; x++) {
    row[x] = (number >> Math.floor((x * BLOCKS) / WIDTH)) & 1 ? 235 : 16;
  }
  return Buffer.concat(Array(HEIGHT).fill(row));
}

// How ffmpeg reads such pictures.
export const INPUT = ["-f", "rawvideo", "-pix_fmt", "gray", "-s", `${WIDTH}x${HEIGHT}`, "-r", `${RATE}`];
