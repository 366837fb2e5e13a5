//! The generators behind the corpus. Pure: a seed in, lines out.
//!
//! Variety is skewed as in life: a few pages, hosts and browsers make most of the lines, and every field that varies in
//! real logs varies here, so that a compressor has about the same work (lz4: about three times smaller).

use std::io::Write;

/// Random numbers from a seed (splitmix64). Good enough for tests; not for secrets.
#[derive(Debug, Clone)]
pub struct Chance(u64);

impl Chance {
    /// The same seed, the same numbers.
    pub fn new(seed: u64) -> Chance {
        Chance(seed)
    }

    /// Any 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        bits ^ (bits >> 31)
    }

    /// From 0 to `bound`, exclusive; 0 if `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        // The high half of a product: without the bias that a remainder has.
        ((u128::from(self.bits()) * u128::from(bound)) >> 64) as u64
    }

    /// From -1 to 1.
    pub fn signed(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1_u64 << 52) as f64 - 1.0
    }

    /// One of these, the earlier ones more often than the later ones.
    pub fn skewed<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        let len = of.len() as u64;
        &of[(self.below(len) * self.below(len) / len.max(1)) as usize]
    }
}

/// 2026-03-01 06:00:00 UTC, when all generated time begins.
const BEGIN_S: u64 = 1_772_344_800;

const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// Year, month (from 1) and day of a count of days since 1970-01-01, after Howard Hinnant's `civil_from_days`.
fn civil(days: u64) -> (u64, usize, u64) {
    let shifted = days + 719_468;
    let day_of_era = shifted % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + shifted / 146_097 * 400 + u64::from(month <= 2);
    (year, month as usize, day)
}

/// Writing to a `Vec` does not fail.
macro_rules! put {
    ($out:expr, $($format:tt)*) => { write!($out, $($format)*).unwrap_or_default() };
}

const SECTIONS: [&str; 12] = [
    "products",
    "images",
    "blog",
    "assets/css",
    "api/v2/orders",
    "assets/js",
    "search",
    "account",
    "api/v2/vehicles",
    "docs/guide",
    "presentations",
    "downloads",
];
const NAMES: [&str; 24] = [
    "overview",
    "index",
    "pricing",
    "brake-pads",
    "tyres-winter",
    "fleet",
    "reset",
    "style2",
    "jquery-1.9.1.min",
    "logo",
    "installation",
    "release-notes",
    "diesel-filter",
    "contact",
    "dashboard3",
    "user-manual",
    "axle-load",
    "favicon",
    "geeking",
    "sensor-kit",
    "route-planner",
    "web-scale",
    "tachograph",
    "xdotool",
];
const ENDINGS: [&str; 8] = ["", ".html", ".png", ".css", ".js", ".jpg", ".pdf", "/"];
const REFERRERS: [&str; 8] = [
    "-",
    "https://www.example.com/products/",
    "https://www.google.com/",
    "https://www.example.com/blog/2026/02/how-far-does-a-litre-go",
    "https://duckduckgo.com/",
    "https://shop.example.net/checkout/basket",
    "https://www.example.com/docs/guide/installation.html",
    "https://forum.example.org/t/telemetry-gateways-compared/4821",
];
const AGENTS: [&str; 10] = [
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/14{}.0.{} Safari/537.36",
    "curl/8.1{}.1",
    "Go-http-client/1.{}",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_{} like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/15E148",
    "Mozilla/5.0 (X11; Linux x86_64; rv:14{}.0) Gecko/20100101 Firefox/14{}.0",
    "Mozilla/5.0 (compatible; Googlebot/2.{}; +http://www.google.com/bot.html)",
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_{}) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.{} Safari/605.1.15",
    "UniversalFeedParser/4.2-pre-31{}-svn +http://feedparser.org/",
    "Mozilla/5.0 (Linux; Android 15; SM-S92{}B) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/141.0.0.0 Mobile Safari/537.36",
    "Mozilla/5.0 (compatible; bingbot/2.{}; +http://www.bing.com/bingbot.htm)",
];

/// A web server's combined log.
pub(super) struct Access {
    chance: Chance,
    at_ms: u64,
    /// Address, browser: visitors come for a while and look at several pages.
    visitors: Vec<(String, String)>,
}

impl Access {
    pub(super) fn new(seed: u64) -> Access {
        let mut chance = Chance::new(seed ^ 0xACCE);
        let visitors = (0..400).map(|_| visitor(&mut chance)).collect();
        Access { chance, at_ms: BEGIN_S * 1000, visitors }
    }

    pub(super) fn next_into(&mut self, out: &mut Vec<u8>) {
        let chance = &mut self.chance;
        self.at_ms += chance.below(60);
        let at = chance.below(self.visitors.len() as u64) as usize;
        if chance.below(12) == 0 {
            self.visitors[at] = visitor(chance);
        }
        let (address, agent) = &self.visitors[at];
        put!(out, "{address} - - [");
        let seconds = self.at_ms / 1000;
        let (year, month, day) = civil(seconds / 86_400);
        put!(out, "{day:02}/{}/{year}:", MONTHS[month - 1]);
        put!(out, "{:02}:{:02}:{:02} +0000] \"", seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
        let method = chance.skewed(&["GET", "GET", "GET", "POST", "HEAD"]);
        let (section, name, ending) =
            (chance.skewed(&SECTIONS), chance.skewed(&NAMES), chance.skewed(&ENDINGS));
        put!(out, "{method} /{section}/{name}{ending}");
        match chance.below(4) {
            0 => put!(out, "?id={}", chance.below(100_000_000)),
            1 => {
                put!(out, "?q={}+{}&page={}", chance.skewed(&NAMES), chance.skewed(&NAMES), chance.below(40))
            }
            2 => put!(out, "?v={:08x}", chance.below(1 << 32)),
            _ => {}
        }
        let status = chance.skewed(&[200, 200, 200, 200, 304, 301, 404, 200, 206, 500, 403, 503]);
        let size = if *status == 304 { 0 } else { chance.below(2_000) * chance.below(100) };
        put!(out, " HTTP/1.1\" {status} {size} \"");
        let referrer = chance.skewed(&REFERRERS);
        put!(out, "{referrer}");
        if referrer.ends_with('/') {
            put!(out, "{}/{}", chance.skewed(&NAMES), chance.skewed(&NAMES));
        }
        // The request's time in seconds and its identifier, as most people add them to the format.
        put!(out, "\" \"{agent}\" 0.{:03} {:08x}", chance.below(400), chance.below(1 << 32));
    }
}

fn visitor(chance: &mut Chance) -> (String, String) {
    let bits = chance.bits().to_le_bytes();
    let address = format!("{}.{}.{}.{}", 1 + bits[0] % 222, bits[1], bits[2], bits[3]);
    let agent = chance.skewed(&AGENTS).replacen("{}", &chance.below(10).to_string(), 1);
    (address, agent.replace("{}", &chance.below(9_000).to_string()))
}

const HOSTS: [&str; 6] = ["gw-berlin-01", "depot-7", "truck-gw-113", "edge-a", "edge-b", "backup"];
const USERS: [&str; 8] = ["root", "admin", "ubuntu", "deploy", "oracle", "test", "postgres", "git"];

/// A machine's system log, in the traditional format.
pub(super) struct Syslog {
    chance: Chance,
    at_ms: u64,
}

impl Syslog {
    pub(super) fn new(seed: u64) -> Syslog {
        Syslog { chance: Chance::new(seed ^ 0x5751), at_ms: BEGIN_S * 1000 }
    }

    pub(super) fn next_into(&mut self, out: &mut Vec<u8>) {
        let chance = &mut self.chance;
        self.at_ms += chance.below(400);
        let seconds = self.at_ms / 1000;
        let (_, month, day) = civil(seconds / 86_400);
        put!(out, "{} {day:2} ", MONTHS[month - 1]);
        put!(out, "{:02}:{:02}:{:02} ", seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
        put!(out, "{} ", chance.skewed(&HOSTS));
        let (pid, port) = (300 + chance.below(31_000), 1024 + chance.below(64_000));
        let bits = chance.bits().to_le_bytes();
        let address = format!("{}.{}.{}.{}", 1 + bits[0] % 222, bits[1], bits[2], bits[3]);
        match chance.below(8) {
            0..3 => {
                let user = chance.skewed(&USERS);
                put!(out, "sshd[{pid}]: Failed password for {user} from {address} port {port} ssh2");
            }
            3 => {
                put!(out, "sshd[{pid}]: Connection closed by {address} port {port} [preauth]");
            }
            4 => {
                put!(out, "kernel: [{}.{:06}] ", seconds - BEGIN_S, chance.below(1_000_000));
                put!(
                    out,
                    "wwan0: link {} (rssi -{} dBm)",
                    chance.skewed(&["up", "down"]),
                    50 + chance.below(60)
                );
            }
            5 => {
                let user = chance.skewed(&USERS);
                put!(out, "CRON[{pid}]: ({user}) CMD (/usr/local/bin/sync-{} --quiet)", chance.below(20));
            }
            6 => {
                let unit = chance.skewed(&["telemetry", "camera", "vpn", "gpsd", "apt-daily"]);
                put!(out, "systemd[1]: {unit}.service: Consumed {}ms CPU time", chance.below(90_000));
            }
            _ => {
                put!(out, "dhclient[{pid}]: DHCPREQUEST for {address} on eth{} to ", chance.below(4));
                put!(out, "255.255.255.255 port 67 (xid=0x{:08x})", chance.bits() as u32);
            }
        }
    }
}

/// One truck, driving: each message is one JSON object with the truck's own counter in `n`.
#[derive(Debug, Clone)]
pub struct Truck {
    name: String,
    chance: Chance,
    n: u64,
    at_ms: u64,
    lat: f64,
    lon: f64,
    heading: f64,
    speed: f64,
    fuel: f64,
    coolant: f64,
    odometer: f64,
}

impl Truck {
    /// Truck number so and so, somewhere in central Europe.
    pub fn new(number: u32, seed: u64) -> Truck {
        let mut chance = Chance::new(seed ^ (u64::from(number) << 32) ^ 0x7247);
        Truck {
            name: format!("truck-{number:03}"),
            n: 0,
            at_ms: BEGIN_S * 1000 + chance.below(1000),
            lat: 50.0 + chance.signed() * 3.0,
            lon: 10.0 + chance.signed() * 4.0,
            heading: chance.below(360) as f64,
            speed: 60.0,
            fuel: 60.0 + chance.signed() * 39.0,
            coolant: 60.0,
            odometer: 1000.0 + chance.below(500_000) as f64,
            chance,
        }
    }

    /// What it is called: `truck-007`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Messages made so far, which is the next message's `n`.
    pub fn made(&self) -> u64 {
        self.n
    }

    /// Drives on for a second and says where it is and how it does.
    pub fn next_message(&mut self) -> Vec<u8> {
        let mut out = Vec::with_capacity(320);
        self.next_into(&mut out);
        out
    }

    /// The same, appended.
    pub fn next_into(&mut self, out: &mut Vec<u8>) {
        let n = self.n;
        self.drive();
        put!(out, "{{\"truck\":\"{}\",\"n\":{n},\"ts\":{},", self.name, self.at_ms);
        put!(out, "\"lat\":{:.6},\"lon\":{:.6},\"heading\":{:.0},", self.lat, self.lon, self.heading);
        put!(out, "\"speed_kmh\":{:.1},\"odometer_km\":{:.2},", self.speed, self.odometer);
        let rpm = 650.0 + self.speed * 11.0 + self.chance.signed() * 40.0;
        let load = (self.speed * 0.8 + self.chance.signed() * 20.0).clamp(2.0, 100.0);
        put!(out, "\"fuel_pct\":{:.2},\"engine\":{{\"rpm\":{rpm:.0},\"load_pct\":{load:.0},", self.fuel);
        put!(out, "\"coolant_c\":{:.1},\"oil_c\":{:.1},", self.coolant, self.coolant + 9.0 + load * 0.1);
        put!(out, "\"exhaust_c\":{:.0}}}}}", 180.0 + load * 3.2 + self.chance.signed() * 9.0);
    }

    fn drive(&mut self) {
        self.n += 1;
        self.at_ms += 950 + self.chance.below(100);
        self.speed = (self.speed + self.chance.signed() * 2.5).clamp(0.0, 89.0);
        self.heading = (self.heading + self.chance.signed() * 4.0).rem_euclid(360.0);
        let km = self.speed / 3600.0;
        let (sin, cos) = self.heading.to_radians().sin_cos();
        let (north, east) = (self.lat + km * cos / 111.2, self.lon + km * sin / 71.5);
        if (45.0..55.0).contains(&north) && (4.0..16.0).contains(&east) {
            (self.lat, self.lon) = (north, east);
        } else {
            self.heading = (self.heading + 180.0).rem_euclid(360.0);
        }
        self.odometer += km;
        self.fuel -= km * 0.05;
        if self.fuel < 4.0 {
            self.fuel = 99.0;
        }
        self.coolant += (88.0 - self.coolant) * 0.02 + self.chance.signed() * 0.2;
    }
}
