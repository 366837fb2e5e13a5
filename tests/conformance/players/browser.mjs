// A browser with one page, and the small server that this page comes from.
import { createServer } from "node:http";
import { readFileSync } from "node:fs";
import puppeteer from "puppeteer-core";

const here = new URL("./", import.meta.url);
const files = {
  "/": ["text/html", readFileSync(new URL("page.html", here))],
  "/hls.js": ["text/javascript", readFileSync(new URL("node_modules/hls.js/dist/hls.min.js", here))],
  "/dash.js": ["text/javascript", readFileSync(new URL("node_modules/dashjs/dist/modern/umd/dash.all.min.js", here))],
};

export async function browse() {
  const server = createServer((request, response) => {
    const [kind, body] = files[request.url] ?? ["text/plain", ""];
    response.writeHead(200, { "content-type": kind }).end(body);
  });
  await new Promise((done) => server.listen(0, "127.0.0.1", done));
  const browser = await puppeteer.launch({
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    headless: true,
    args: ["--no-sandbox", "--disable-gpu", "--autoplay-policy=no-user-gesture-required", "--mute-audio"],
  });
  const page = await browser.newPage();
  const close = async () => {
    await browser.close();
    server.closeAllConnections();
    server.close();
  };
  return { browser, page, close, home: `http://127.0.0.1:${server.address().port}/` };
}
