//! Configuration: TOML in, checked values out. Nothing is opened or created here, and nothing of the spool is
//! touched before all of it is known to be good.

use std::path::{Path, PathBuf};

use ::video::limit::FRAGMENT_BYTES_MAX;
use protocol::compress::Codec;
use protocol::limit::{BATCH_RECORDS_MAX, RECORD_BYTES_MAX};
use protocol::name::StreamName;
use protocol::native::url::StoreUrl;
use serde::Deserialize;

use crate::partition::Template;

mod policy;
mod video;

pub use policy::PolicySection;
pub use video::{After, RtspTransport, RtspUrl, VideoSource};

/// A configuration that can't be used: where, what, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}{}: {message}", line.map(|l| format!(":{l}")).unwrap_or_default())]
pub struct ConfigError {
    /// The configuration's file.
    pub file: String,
    /// Line, from 1, where it is known.
    pub line: Option<usize>,
    /// What is wrong, and what to do.
    pub message: String,
}

/// A number of bytes, as `"1 GiB"`, `"256 KiB"` or `4096`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "SizeText")]
pub struct Size(pub u64);

#[derive(Deserialize)]
#[serde(untagged)]
enum SizeText {
    Number(u64),
    Text(String),
}

impl TryFrom<SizeText> for Size {
    type Error = String;
    fn try_from(text: SizeText) -> Result<Size, String> {
        match text {
            SizeText::Number(bytes) => Ok(Size(bytes)),
            SizeText::Text(text) => Size::parse(&text),
        }
    }
}

const UNITS: [(&str, u64); 10] = [
    ("b", 1),
    ("", 1),
    ("kib", 1 << 10),
    ("mib", 1 << 20),
    ("gib", 1 << 30),
    ("tib", 1 << 40),
    ("kb", 1000),
    ("mb", 1_000_000),
    ("gb", 1_000_000_000),
    ("tb", 1_000_000_000_000),
];

impl Size {
    /// Reads a size.
    ///
    /// # Errors
    /// A sentence with an example when it is none.
    pub fn parse(text: &str) -> Result<Size, String> {
        let bad =
            || format!("{text:?} is no size; write a number of bytes or such as \"256 KiB\", \"1 GiB\"");
        let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let number: u64 = text[..split].parse().map_err(|_| bad())?;
        let unit = text[split..].trim().to_ascii_lowercase();
        let (_, factor) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(bad)?;
        number.checked_mul(*factor).map(Size).ok_or_else(bad)
    }
}

/// All of it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Who this agent is.
    #[serde(default)]
    pub agent: AgentSection,
    /// Where records go.
    pub store: StoreSection,
    /// Where records come from.
    pub source: Sources,
    /// How records are put together.
    #[serde(default)]
    pub batch: BatchSection,
    /// Where they are kept until the store has them.
    pub spool: SpoolSection,
    /// What goes first, and what is kept back.
    #[serde(default)]
    pub policy: Vec<PolicySection>,
}

/// `[agent]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentSection {
    /// Name; the host's where it is not said.
    pub name: Option<String>,
}

/// `[store]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoreSection {
    /// `kinesin://HOST:PORT`.
    pub url: Url,
    /// The store's authority, PEM.
    pub ca: PathBuf,
    /// For first contact only.
    pub token: Option<String>,
    /// The name in the store's certificate, where it is not the URL's host.
    pub server_name: Option<String>,
    /// Most batches sent and not answered.
    #[serde(default = "inflight_batches")]
    pub inflight_batches_max: u32,
    /// Most bytes sent and not answered.
    #[serde(default = "inflight_bytes")]
    pub inflight_bytes_max: Size,
    /// Most bytes of batches sent in a second, over time; as fast as it goes where it is not said.
    pub bytes_per_second_max: Option<Size>,
}

fn inflight_batches() -> u32 {
    128
}

fn inflight_bytes() -> Size {
    Size(8 << 20)
}

/// A store's URL.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Url(pub StoreUrl);

impl TryFrom<String> for Url {
    type Error = protocol::native::url::NotAStoreUrl;
    fn try_from(text: String) -> Result<Url, Self::Error> {
        StoreUrl::parse(&text).map(Url)
    }
}

/// `[batch]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BatchSection {
    /// Most records.
    pub records_max: Option<usize>,
    /// Most bytes before compression.
    pub bytes_max: Option<Size>,
    /// Longest wait of a record for others.
    pub linger_ms: Option<u64>,
    /// `none`, `lz4` or `zstd`.
    pub codec: Option<Codec>,
    /// `none` or `kpl`.
    pub aggregate: Option<Aggregate>,
}

/// Whether several records are put into one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Aggregate {
    /// Every record is one.
    #[default]
    None,
    /// As the Kinesis Producer Library does it, for consumers that know it.
    Kpl,
}

/// What a batch may be, with nothing left open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchSettings {
    /// Most records.
    pub records_max: usize,
    /// Most bytes before compression.
    pub bytes_max: usize,
    /// Longest wait of a record for others.
    pub linger_ms: u64,
    /// How it is compressed.
    pub codec: Codec,
    /// Whether several records are put into one.
    pub aggregate: Aggregate,
}

impl Default for BatchSettings {
    fn default() -> BatchSettings {
        BatchSettings {
            records_max: 10_000,
            bytes_max: 256 << 10,
            linger_ms: 5,
            codec: Codec::Lz4,
            aggregate: Aggregate::None,
        }
    }
}

impl BatchSection {
    /// These settings, and where they say nothing those of `base`.
    #[must_use]
    pub fn over(&self, base: BatchSettings) -> BatchSettings {
        BatchSettings {
            records_max: self.records_max.unwrap_or(base.records_max),
            bytes_max: self.bytes_max.map_or(base.bytes_max, |s| s.0 as usize),
            linger_ms: self.linger_ms.unwrap_or(base.linger_ms),
            codec: self.codec.unwrap_or(base.codec),
            aggregate: self.aggregate.unwrap_or(base.aggregate),
        }
    }
}

/// `[source]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sources {
    /// `[[source.file]]`
    #[serde(default)]
    pub file: Vec<FileSource>,
    /// `[[source.mqtt]]`
    #[serde(default)]
    pub mqtt: Vec<MqttSource>,
    /// `[source.stdin]`
    pub stdin: Option<StdinSource>,
    /// `[[source.video]]`
    #[serde(default)]
    pub video: Vec<VideoSource>,
}

/// Where to begin in a file that was there before the agent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Start {
    /// With its first line.
    #[default]
    Beginning,
    /// With what is written from now on.
    End,
}

/// What becomes of a line that is too long.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LongLine {
    /// Its beginning is kept, with a mark at the end.
    #[default]
    Truncate,
    /// It is left out.
    Drop,
}

/// `[[source.file]]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileSource {
    /// Globs.
    pub paths: Vec<String>,
    /// Globs of files to leave alone.
    #[serde(default)]
    pub exclude: Vec<String>,
    /// Template of the stream's name.
    pub stream: Template,
    /// Template of the partition key.
    pub partition_key: Template,
    /// Partition key where the template has no value; the agent's name where it is not said.
    pub partition_key_default: Option<String>,
    /// Where to begin in files that were there before.
    #[serde(default)]
    pub start: Start,
    /// Longest line.
    #[serde(default = "line_bytes")]
    pub line_bytes_max: Size,
    /// What becomes of longer ones.
    #[serde(default)]
    pub long_line: LongLine,
    /// How long a line without its end waits before it is sent as it is; for ever where it is not said.
    pub partial_line_ms: Option<u64>,
    /// How often everything is looked at, whatever the operating system tells.
    #[serde(default = "poll_ms")]
    pub poll_ms: u64,
    /// Most files held open.
    #[serde(default = "files_open")]
    pub files_open_max: usize,
    /// Overrides of `[batch]`.
    #[serde(default)]
    pub batch: BatchSection,
}

fn line_bytes() -> Size {
    // A record of a stream with default settings takes this much.
    Size(1 << 20)
}

fn poll_ms() -> u64 {
    1000
}

fn files_open() -> usize {
    512
}

/// MQTT's version.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub enum MqttVersion {
    /// 5.0.
    #[default]
    #[serde(rename = "5")]
    V5,
    /// 3.1.1.
    #[serde(rename = "3.1.1")]
    V311,
}

/// A broker's address: `mqtt://HOST[:PORT]`, `mqtts://HOST[:PORT]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct BrokerUrl {
    /// Name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// TLS.
    pub tls: bool,
}

impl TryFrom<String> for BrokerUrl {
    type Error = String;
    fn try_from(text: String) -> Result<BrokerUrl, String> {
        let bad = || format!("{text:?} names no broker; write mqtt://HOST:1883 or mqtts://HOST:8883");
        let (scheme, rest) = text.split_once("://").ok_or_else(bad)?;
        let (tls, default) = match scheme {
            "mqtt" => (false, 1883),
            "mqtts" => (true, 8883),
            _ => return Err(bad()),
        };
        // The same rules for host and port as the store's address has.
        let url = StoreUrl::parse(&format!("kinesin://{rest}")).map_err(|_| bad())?;
        let said = rest.trim_end_matches('/').rsplit_once(':').is_some_and(|(_, p)| !p.contains(']'));
        Ok(BrokerUrl { host: url.host, port: if said { url.port } else { default }, tls })
    }
}

/// `[[source.mqtt]]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MqttSource {
    /// Address.
    pub broker: BrokerUrl,
    /// Topic filters.
    pub topics: Vec<String>,
    /// Template of the stream's name.
    pub stream: Template,
    /// Template of the partition key.
    pub partition_key: Template,
    /// Partition key where the template has no value; the agent's name where it is not said.
    pub partition_key_default: Option<String>,
    /// `"5"` or `"3.1.1"`.
    #[serde(default)]
    pub version: MqttVersion,
    /// Name of the session at the broker; made from the agent's where it is not said.
    pub client_id: Option<String>,
    /// User.
    pub username: Option<String>,
    /// Password.
    pub password: Option<String>,
    /// The broker's authority, PEM, for `mqtts`.
    pub ca: Option<PathBuf>,
    /// Client certificate, PEM.
    pub certificate: Option<PathBuf>,
    /// Its key, PEM.
    pub key: Option<PathBuf>,
    /// Longest message taken; longer ones go to the loss ledger.
    #[serde(default = "line_bytes")]
    pub message_bytes_max: Size,
    /// Overrides of `[batch]`.
    #[serde(default)]
    pub batch: BatchSection,
}

/// `[source.stdin]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StdinSource {
    /// Template of the stream's name.
    pub stream: Template,
    /// Template of the partition key.
    pub partition_key: Template,
    /// Longest line.
    #[serde(default = "line_bytes")]
    pub line_bytes_max: Size,
    /// Overrides of `[batch]`.
    #[serde(default)]
    pub batch: BatchSection,
}

/// What a full spool does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Overflow {
    /// Files are not read on, MQTT messages are not acknowledged.
    #[default]
    Block,
    /// The oldest undelivered batches go, into the loss ledger.
    DropOldest,
    /// New batches go, into the loss ledger.
    DropNewest,
}

/// `[spool]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpoolSection {
    /// Its folder.
    pub dir: PathBuf,
    /// Most bytes on disk.
    #[serde(default = "spool_bytes")]
    pub max_bytes: Size,
    /// Bytes of the file system that stay free.
    #[serde(default = "min_free")]
    pub min_free: Size,
    /// Bytes of one file of the spool; made from `max_bytes` where it is not said.
    pub segment_bytes: Option<Size>,
    /// What happens at `max_bytes`.
    #[serde(default)]
    pub overflow: Overflow,
}

fn spool_bytes() -> Size {
    Size(1 << 30)
}

fn min_free() -> Size {
    Size(64 << 20)
}

impl SpoolSection {
    /// Bytes of one file of the spool.
    #[must_use]
    pub fn segment_bytes(&self) -> u64 {
        self.segment_bytes.map_or_else(|| (8 << 20).min(self.max_bytes.0 / 8), |s| s.0).max(64 << 10)
    }
}

impl Config {
    /// Reads and checks a file. Relative paths in it are relative to its folder.
    ///
    /// # Errors
    /// With file, line and a suggestion.
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        let file = path.display().to_string();
        let fail = |message| ConfigError { file: file.clone(), line: None, message };
        let text = std::fs::read_to_string(path).map_err(|e| fail(format!("can't be read: {e}")))?;
        let base = path.parent().unwrap_or(Path::new(""));
        Config::parse(&text, &file, base)
    }

    /// Reads and checks a text; `file` is for messages, relative paths are put under `base`.
    ///
    /// # Errors
    /// With file, line and a suggestion.
    pub fn parse(text: &str, file: &str, base: &Path) -> Result<Config, ConfigError> {
        let mut config: Config = toml::from_str(text).map_err(|error| ConfigError {
            file: file.to_owned(),
            line: error.span().map(|span| line_of(text, span.start)),
            message: with_suggestion(error.message()),
        })?;
        config.resolve(base);
        config.check().map_err(|(key, message)| ConfigError {
            file: file.to_owned(),
            line: line_with(text, key),
            message,
        })?;
        Ok(config)
    }

    fn resolve(&mut self, base: &Path) {
        let join = |path: &mut PathBuf| *path = base.join(&*path);
        join(&mut self.store.ca);
        join(&mut self.spool.dir);
        for source in &mut self.source.file {
            for glob in source.paths.iter_mut().chain(&mut source.exclude) {
                *glob = base.join(&*glob).to_string_lossy().into_owned();
            }
        }
        for source in &mut self.source.video {
            [&mut source.folder, &mut source.event].into_iter().flatten().for_each(join);
        }
        self.policy.iter_mut().filter_map(|policy| policy.hold_until.as_mut()).for_each(join);
        for source in &mut self.source.mqtt {
            [&mut source.ca, &mut source.certificate, &mut source.key].into_iter().flatten().for_each(join);
        }
    }

    fn check(&self) -> Result<(), (&'static str, String)> {
        let Sources { file, mqtt, stdin, video } = &self.source;
        if file.is_empty() && mqtt.is_empty() && stdin.is_none() && video.is_empty() {
            return Err(("source", "there is no source; add a [[source.file]] or a [[source.mqtt]]".into()));
        }
        self.check_batches()?;
        self.check_files()?;
        self.check_mqtt()?;
        video.iter().try_for_each(|source| source.check(&self.agent_name()))?;
        let lines = self.source.file.iter().map(|s| s.line_bytes_max);
        let lines = lines.chain(self.source.stdin.iter().map(|s| s.line_bytes_max));
        let lines = lines.chain(video.iter().map(|_| Size(FRAGMENT_BYTES_MAX as u64)));
        let longest = lines.chain(mqtt.iter().map(|s| s.message_bytes_max)).max();
        let least = longest.map_or(0, |size| size.0 * 4).max(1 << 20);
        if self.spool.max_bytes.0 < least {
            let text = format!(
                "spool.max_bytes must be at least {least}: four of the longest lines, messages or fragments"
            );
            return Err(("max_bytes", text));
        }
        if self.spool.segment_bytes() > self.spool.max_bytes.0 / 2 {
            return Err(("segment_bytes", "spool.segment_bytes must be at most half of max_bytes".into()));
        }
        self.policy.iter().try_for_each(|policy| policy.rule().map(drop))?;
        if self.store.bytes_per_second_max.is_some_and(|size| size.0 < 1024) {
            let text = "store.bytes_per_second_max must be at least \"1 KiB\"";
            return Err(("bytes_per_second_max", text.into()));
        }
        if self.store.inflight_batches_max == 0 {
            return Err(("inflight_batches_max", "store.inflight_batches_max must be at least 1".into()));
        }
        match &self.agent.name {
            Some(name) if name.is_empty() || name.chars().count() > 128 => {
                Err(("name", "agent.name has 1 to 128 characters".into()))
            }
            _ => Ok(()),
        }
    }

    fn check_batches(&self) -> Result<(), (&'static str, String)> {
        let base = self.batch.over(BatchSettings::default());
        let files = self.source.file.iter().map(|s| &s.batch);
        let all = files.chain(self.source.mqtt.iter().map(|s| &s.batch));
        for settings in std::iter::once(base).chain(all.map(|b| b.over(base))) {
            if !(1..=BATCH_RECORDS_MAX).contains(&settings.records_max) {
                return Err(("records_max", format!("records_max must be 1 to {BATCH_RECORDS_MAX}")));
            }
            if !(1024..=4 << 20).contains(&settings.bytes_max) {
                return Err(("bytes_max", "bytes_max must be \"1 KiB\" to \"4 MiB\"".into()));
            }
            if settings.linger_ms > 600_000 {
                return Err(("linger_ms", "linger_ms must be at most 600000 (ten minutes)".into()));
            }
        }
        Ok(())
    }

    fn check_files(&self) -> Result<(), (&'static str, String)> {
        for source in &self.source.file {
            if source.paths.is_empty() {
                return Err(("paths", "paths must name at least one file or glob".into()));
            }
            for glob in source.paths.iter().chain(&source.exclude) {
                glob::Pattern::new(glob).map_err(|e| ("paths", format!("{glob:?} is no glob: {e}")))?;
            }
            for template in [&source.stream, &source.partition_key] {
                if template.depends_on_topic() {
                    let text = format!("{template}: a file has no topic; {{topic}} is for [[source.mqtt]]");
                    return Err(("partition_key", text));
                }
            }
            check_stream(&source.stream)?;
            check_line(source.line_bytes_max)?;
        }
        Ok(())
    }

    fn check_mqtt(&self) -> Result<(), (&'static str, String)> {
        for source in &self.source.mqtt {
            if source.topics.is_empty() || source.topics.iter().any(String::is_empty) {
                return Err((
                    "topics",
                    "topics must name at least one topic filter, none of them empty".into(),
                ));
            }
            if source.certificate.is_some() != source.key.is_some() {
                return Err(("certificate", "certificate and key go together".into()));
            }
            check_stream(&source.stream)?;
            check_line(source.message_bytes_max)?;
        }
        Ok(())
    }

    /// The agent's name: as configured, or the host's.
    #[must_use]
    pub fn agent_name(&self) -> String {
        self.agent.name.clone().unwrap_or_else(host_name)
    }
}

fn check_stream(template: &Template) -> Result<(), (&'static str, String)> {
    match template.as_literal().map(StreamName::new) {
        Some(Err(error)) => Err(("stream", error.to_string())),
        _ => Ok(()),
    }
}

fn check_line(size: Size) -> Result<(), (&'static str, String)> {
    if (64..=RECORD_BYTES_MAX as u64).contains(&size.0) {
        return Ok(());
    }
    Err(("bytes_max", "the longest line or message must be 64 bytes to \"10 MiB\"".into()))
}

/// The machine's name.
#[must_use]
pub fn host_name() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    if name.is_empty() { "host".to_owned() } else { name }
}

fn line_of(text: &str, offset: usize) -> usize {
    text[..offset.min(text.len())].matches('\n').count() + 1
}

fn line_with(text: &str, key: &str) -> Option<usize> {
    let starts = |line: &str| line.trim_start().trim_start_matches('[').starts_with(key);
    text.lines().position(starts).map(|at| at + 1)
}

/// serde says which fields there are; the nearest one is what was meant.
fn with_suggestion(message: &str) -> String {
    let mut quoted = message.split('`').skip(1).step_by(2);
    let message = message.trim();
    let is_field = message.starts_with("unknown field") || message.starts_with("unknown variant");
    let (true, Some(wrong)) = (is_field, quoted.next()) else { return message.to_owned() };
    let near = quoted.map(|name| (strsim::jaro_winkler(wrong, name), name));
    match near.max_by(|a, b| a.0.total_cmp(&b.0)) {
        Some((score, name)) if score > 0.7 => format!("{message}; did you mean `{name}`?"),
        _ => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
[store]
url = "kinesin://127.0.0.1:4567"
ca = "data/ca.pem"
token = "t"

[[source.file]]
paths = ["logs/*.log"]
stream = "logs"
partition_key = "{host}:{file}"

[[source.mqtt]]
broker = "mqtt://127.0.0.1:1884"
topics = ["trucks/+/telemetry"]
stream = "telemetry"
partition_key = "{topic[1]}"
batch = { linger_ms = 20, codec = "zstd" }

[spool]
dir = "spool"
max_bytes = "1 GiB"
"#;

    fn parse(text: &str) -> Result<Config, ConfigError> {
        Config::parse(text, "agent.toml", Path::new("/etc/kinesin"))
    }

    #[test]
    fn the_example_is_read_and_relative_paths_are_below_the_file() {
        let config = parse(GOOD).unwrap();
        assert_eq!(config.store.ca, Path::new("/etc/kinesin/data/ca.pem"));
        assert_eq!(config.source.file[0].paths, ["/etc/kinesin/logs/*.log"]);
        assert_eq!(config.spool.max_bytes, Size(1 << 30));
        let broker = &config.source.mqtt[0].broker;
        assert_eq!((broker.host.as_str(), broker.port, broker.tls), ("127.0.0.1", 1884, false));
        let batch = config.source.mqtt[0].batch.over(config.batch.over(BatchSettings::default()));
        assert_eq!((batch.linger_ms, batch.codec, batch.bytes_max), (20, Codec::Zstd, 256 << 10));
    }

    #[test]
    fn misspelt_keys_are_refused_with_file_line_and_suggestion() {
        for (right, wrong, line) in
            [("paths", "pahts", 8), ("max_bytes", "max_byte", 21), ("linger_ms", "lingerms", 17)]
        {
            let error = parse(&GOOD.replace(right, wrong)).unwrap_err();
            assert_eq!(error.line, Some(line), "{error}");
            assert!(error.to_string().starts_with(&format!("agent.toml:{line}: ")), "{error}");
            assert!(error.message.contains(&format!("did you mean `{right}`?")), "{error}");
        }
    }

    #[test]
    fn values_that_cannot_work_are_refused_before_anything_is_opened() {
        for (good, bad, say) in [
            ("1 GiB", "1 GB i", "is no size"),
            ("1 GiB", "10 KiB", "at least"),
            ("kinesin://127.0.0.1:4567", "http://x", "kinesin://"),
            ("{host}", "{hots}", "did you mean {host}"),
            ("{host}", "{topic}", "a file has no topic"),
            ("\"logs\"", "\"a/b\"", "stream name"),
            ("mqtt://", "tcp://", "mqtt://HOST"),
            ("\"zstd\"", "\"zst\"", "did you mean `zstd`?"),
            ("logs/*.log", "logs/***.log", "no glob"),
        ] {
            let error = parse(&GOOD.replace(good, bad)).unwrap_err();
            assert!(error.message.contains(say), "{error}");
            assert!(error.line.is_some(), "{error}");
        }
    }

    #[test]
    fn sizes_are_read_in_binary_and_decimal_units() {
        for (text, want) in [("1", 1), ("2 KiB", 2048), ("3kb", 3000), ("1 GiB", 1 << 30), ("5 B", 5)] {
            assert_eq!(Size::parse(text), Ok(Size(want)));
        }
        for bad in ["", "x", "-1", "1.5 GiB", "1 XiB", "99999999999 TiB"] {
            assert!(Size::parse(bad).is_err(), "{bad}");
        }
    }
}
