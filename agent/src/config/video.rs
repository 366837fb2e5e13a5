//! `[[source.video]]`: what a source of video may say, and what of it goes together. Pure. Never: what becomes of it.

use std::path::PathBuf;

use ::video::annexb::Rate;
use protocol::name::StreamName;
use protocol::native::url::StoreUrl;
use serde::Deserialize;

use super::{check_stream, host_name};
use crate::partition::{Origin, Template};

/// What becomes of a film that is taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum After {
    /// It stays.
    #[default]
    Keep,
    /// It is deleted once the spool has all of it.
    Delete,
}

/// How a camera sends its packets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RtspTransport {
    /// Within the connection that is there anyway (RFC 2326, 10.12): nothing is lost on the way.
    #[default]
    Tcp,
    /// Beside it: what is lost on the way stays lost, and is told.
    Udp,
}

/// A camera's address: `rtsp://HOST[:PORT][/PATH]`. A user and a password do not belong in it, and paths may hold
/// secrets too: only [`host`](Self::host) is ever told.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct RtspUrl {
    text: String,
    host: String,
}

impl std::fmt::Debug for RtspUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RtspUrl({})", self.host)
    }
}

impl RtspUrl {
    /// All of it; never told to anybody but the camera.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Host and port, for people.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }
}

impl TryFrom<String> for RtspUrl {
    type Error = String;
    // What is wrong is told without the text: it may hold a password.
    fn try_from(text: String) -> Result<RtspUrl, String> {
        let bad = || "rtsp names no camera; write rtsp://HOST:554/PATH".to_owned();
        if text.starts_with("rtsps://") {
            return Err(
                "rtsp: cameras are read without TLS; write rtsp:// (or a command that knows rtsps)".into()
            );
        }
        let rest = text.strip_prefix("rtsp://").ok_or_else(bad)?;
        if text.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err(bad());
        }
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        if authority.contains('@') {
            return Err("rtsp has a user in it; write username and password as keys of their own".into());
        }
        // The same rules for host and port as the store's address has.
        let url = StoreUrl::parse(&format!("kinesin://{authority}")).map_err(|_| bad())?;
        let said = authority.rsplit_once(':').is_some_and(|(_, port)| !port.contains(']'));
        let host = if url.host.contains(':') { format!("[{}]", url.host) } else { url.host };
        let host = format!("{host}:{}", if said { url.port } else { 554 });
        Ok(RtspUrl { text, host })
    }
}

/// A password, which is in no message.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(pub String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

/// `[[source.video]]`: a camera by RTSP, a camera's command, or a folder of films; with both of the latter the command reads each
/// film.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VideoSource {
    /// Template of the stream's name, of the agent's and the host's name only.
    pub stream: Template,
    /// A camera that speaks RTSP.
    pub rtsp: Option<RtspUrl>,
    /// Its user.
    pub username: Option<String>,
    /// ... and password.
    pub password: Option<Secret>,
    /// How it sends.
    #[serde(default)]
    pub transport: RtspTransport,
    /// Program and arguments: what it writes to standard output is fragmented MP4, Matroska, a transport stream, or H.264 or
    /// H.265 alone. `{file}` is a film of the folder.
    #[serde(default)]
    pub command: Vec<String>,
    /// Pictures a second, where what comes is H.264 or H.265 alone and does not say it.
    pub fps: Option<f64>,
    /// Where films appear.
    pub folder: Option<PathBuf>,
    /// Glob of their names.
    #[serde(default = "films")]
    pub files: String,
    /// What becomes of them.
    #[serde(default)]
    pub after: After,
    /// A film is finished when it is left alone for so long.
    #[serde(default = "settled_ms")]
    pub settled_ms: u64,
    /// A camera or a command from which nothing comes for so long is begun again.
    #[serde(default = "silence_s")]
    pub silence_s: u64,
    /// A file: whenever it is touched, what was taken around that moment goes into another stream too.
    pub event: Option<PathBuf>,
    /// Template of that stream's name.
    pub event_stream: Option<Template>,
    /// From so long before ...
    #[serde(default = "event_s")]
    pub event_before_s: u64,
    /// ... until so long after.
    #[serde(default = "event_s")]
    pub event_after_s: u64,
}

fn event_s() -> u64 {
    30
}

fn films() -> String {
    "*.mp4".to_owned()
}

fn settled_ms() -> u64 {
    5000
}

fn silence_s() -> u64 {
    30
}

fn name_of(template: &Template, agent: &str) -> Option<StreamName> {
    let host = host_name();
    let origin = Origin { host: &host, agent, file: "", topic: "" };
    let mut text = String::new();
    template.render(&origin, b"", &mut text).then(|| template.stream_name(&origin, b"", &mut text))
}

impl VideoSource {
    /// The stream's name; `None` where the template wants more than is known before there is anything.
    #[must_use]
    pub fn stream_name(&self, agent: &str) -> Option<StreamName> {
        name_of(&self.stream, agent)
    }

    /// The name of the stream of its events; `None` where it has none.
    #[must_use]
    pub fn event_stream_name(&self, agent: &str) -> Option<StreamName> {
        self.event.as_ref()?;
        name_of(self.event_stream.as_ref()?, agent)
    }

    /// Pictures a second, if that is said.
    #[must_use]
    pub fn rate(&self) -> Option<Rate> {
        self.fps.and_then(Rate::of_fps)
    }

    /// Whether it can work; the key that is wrong, and why.
    pub(super) fn check(&self, agent: &str) -> Result<(), (&'static str, String)> {
        let VideoSource { stream, command, folder, files, silence_s, .. } = self;
        self.check_kind()?;
        if command.first().is_some_and(String::is_empty) {
            return Err(("command", "the first word of command must be a program".into()));
        }
        let reads_films = command.iter().any(|word| word.contains("{file}"));
        if !command.is_empty() && reads_films != folder.is_some() {
            return Err(("command", "folder, and {file} in command, go together".into()));
        }
        glob::Pattern::new(files).map_err(|e| ("files", format!("{files:?} is no glob: {e}")))?;
        if files.contains('/') {
            return Err(("files", format!("files = {files:?} are names in the folder, without a slash")));
        }
        if self.fps.is_some() && self.rate().is_none() {
            return Err(("fps", "fps must be 0.1 to 1000".into()));
        }
        if self.fps.is_some() && self.rtsp.is_some() {
            return Err((
                "fps",
                "fps is for a command or a folder: a camera's packets have their times".into(),
            ));
        }
        if !(1..=86_400).contains(silence_s) {
            return Err(("silence_s", "silence_s must be 1 to 86400".into()));
        }
        if self.stream_name(agent).is_none() {
            let text = format!("{stream}: a stream of video is named by text, {{agent}} and {{host}} only");
            return Err(("stream", text));
        }
        check_stream(stream)?;
        self.check_event(agent)
    }

    fn check_event(&self, agent: &str) -> Result<(), (&'static str, String)> {
        let VideoSource { event, event_stream, event_before_s, event_after_s, .. } = self;
        let Some(template) = event_stream.as_ref().filter(|_| event.is_some()) else {
            if event.is_none() && event_stream.is_none() {
                return Ok(());
            }
            return Err(("event", "event, a file, and event_stream, a stream's name, go together".into()));
        };
        let name = self.event_stream_name(agent);
        if name.is_none() || name == self.stream_name(agent) {
            let text = format!(
                "{template}: events go to another stream, named by text, {{agent}} and {{host}} only"
            );
            return Err(("event_stream", text));
        }
        if *event_before_s > 3600 || *event_after_s > 3600 {
            return Err(("event_", "event_before_s and event_after_s must be at most 3600".into()));
        }
        check_stream(template).map_err(|(_, text)| ("event_stream", text))
    }

    fn check_kind(&self) -> Result<(), (&'static str, String)> {
        let VideoSource { rtsp, command, folder, username, password, transport, .. } = self;
        if rtsp.is_none() && command.is_empty() && folder.is_none() {
            let text = "[[source.video]] needs rtsp, a camera's address, or a command that writes a film, or a folder of films";
            return Err(("source.video", text.into()));
        }
        if rtsp.is_some() && (!command.is_empty() || folder.is_some()) {
            let text = "rtsp is a source of its own; command and folder want another [[source.video]]";
            return Err(("rtsp", text.into()));
        }
        if rtsp.is_some() && !cfg!(feature = "rtsp") {
            let text = "this agent was built without RTSP; build it with the feature rtsp, or use a command such as ffmpeg";
            return Err(("rtsp", text.into()));
        }
        if username.is_some() != password.is_some() {
            return Err(("username", "username and password go together".into()));
        }
        for (is, key) in [(username.is_some(), "username"), (*transport != RtspTransport::Tcp, "transport")] {
            if is && rtsp.is_none() {
                return Err((key, format!("{key} is a camera's: it goes with rtsp")));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::{Config, ConfigError};

    fn of(keys: &str) -> Result<Config, ConfigError> {
        let spool = if keys.contains("[spool]") { "" } else { "[spool]\ndir = \"spool\"\n" };
        let text = format!(
            "[store]\nurl = \"kinesin://127.0.0.1:4567\"\nca = \"ca.pem\"\n[[source.video]]\n{keys}\n{spool}"
        );
        Config::parse(&text, "agent.toml", Path::new("/etc/kinesin"))
    }

    #[test]
    fn a_source_of_video_is_a_camera_a_command_or_a_folder_and_its_stream_is_known_before() {
        let config = of("stream = \"cam-{agent}\"\nfolder = \"films\"").unwrap();
        assert_eq!(config.source.video[0].folder.as_deref(), Some(Path::new("/etc/kinesin/films")));
        assert_eq!(config.source.video[0].stream_name("truck").unwrap().as_str(), "cam-truck");
        of("stream = \"c\"\ncommand = [\"ffmpeg\", \"-i\", \"{file}\"]\nfolder = \"films\"").unwrap();
        for (keys, say) in [
            ("stream = \"c\"", "needs rtsp"),
            ("stream = \"c\"\ncommand = [\"\"]", "must be a program"),
            ("stream = \"c\"\ncommand = [\"cat\", \"{file}\"]", "go together"),
            ("stream = \"c\"\ncommand = [\"cat\"]\nfolder = \"films\"", "go together"),
            ("stream = \"{file}\"\nfolder = \"films\"", "named by text"),
            ("stream = \"c\"\nfolder = \"films\"\nfiles = \"a/*\"", "without a slash"),
            ("stream = \"c\"\nfolder = \"films\"\nafter = \"delet\"", "did you mean `delete`?"),
            ("stream = \"c\"\nfolder = \"films\"\nsilence_s = 0", "1 to 86400"),
            ("stream = \"c\"\nfolder = \"films\"\nfps = 0.0", "0.1 to 1000"),
            ("stream = \"c\"\nfolder = \"films\"\nusername = \"u\"\npassword = \"p\"", "goes with rtsp"),
            ("stream = \"c\"\nfolder = \"films\"\ntransport = \"udp\"", "goes with rtsp"),
            ("stream = \"c\"\nfolder = \"films\"\nevent = \"e\"", "go together"),
            ("stream = \"c\"\nfolder = \"films\"\nevent = \"e\"\nevent_stream = \"c\"", "another stream"),
            (
                "stream = \"c\"\nfolder = \"f\"\nevent = \"e\"\nevent_stream = \"d\"\nevent_after_s = 9999",
                "3600",
            ),
        ] {
            let error = of(keys).unwrap_err();
            assert!(error.message.contains(say) && error.line.is_some(), "{keys}: {error}");
        }
        let small = of("stream = \"c\"\nfolder = \"f\"\n[spool]\ndir = \"spool\"\nmax_bytes = \"16 MiB\"");
        assert!(small.unwrap_err().message.contains("four of the longest"));
    }

    #[cfg(feature = "rtsp")]
    #[test]
    fn a_camera_s_address_has_no_user_and_no_message_has_a_password() {
        let config = of(
            "stream = \"c\"\nrtsp = \"rtsp://10.0.0.7/a?token=hush\"\nusername = \"u\"\npassword = \"hush\"",
        );
        let config = config.unwrap();
        let camera = config.source.video[0].rtsp.as_ref().unwrap();
        assert_eq!((camera.host(), camera.text()), ("10.0.0.7:554", "rtsp://10.0.0.7/a?token=hush"));
        assert!(!format!("{config:?}").contains("hush"));
        for (keys, say) in [
            ("rtsp = \"rtsp://u:hush@10.0.0.7/a\"", "keys of their own"),
            ("rtsp = \"rtsps://10.0.0.7/hush\"", "without TLS"),
            ("rtsp = \"http://10.0.0.7/hush\"", "rtsp://HOST"),
            ("rtsp = \"rtsp://:554/hush\"", "rtsp://HOST"),
            ("rtsp = \"rtsp://a b/hush\"", "rtsp://HOST"),
            ("rtsp = \"rtsp://a:8554:554/hush\"", "rtsp://HOST"),
            ("rtsp = \"rtsp://a\"\nfolder = \"hush\"", "of its own"),
            ("rtsp = \"rtsp://a\"\nusername = \"hush\"", "go together"),
            ("rtsp = \"rtsp://a\"\ntransport = \"hush\"", "unknown variant"),
        ] {
            let error = of(&format!("stream = \"c\"\n{keys}")).unwrap_err();
            assert!(error.message.contains(say), "{keys}: {error}");
            assert!(keys.contains("transport") || !error.to_string().contains("hush"), "{error}");
        }
    }
}
