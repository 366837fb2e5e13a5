//! Sessions of players: addresses that work for a while without a key. The playlists and manifests themselves are those of
//! `/v1/video`.

use hyper::Response;
use protocol::name::StreamName;
use protocol::time::UnixMs;
use serde_json::json;

use super::archive::Span;
use super::{Body, Call, Refusal, Result, as_json, invalid, refusal};
use crate::api::video::base_s;
use crate::service::video::At;

/// Seconds.
const EXPIRES: (i64, i64, i64) = (300, 300, 43_200);
/// Fragments of one playlist.
const FRAGMENTS_MAX: i64 = 5000;
/// Where nothing is said: of what is live, and of what was.
const FRAGMENTS_DEFAULT: (i64, i64) = (5, 1000);
/// What is live has a fragment that came within this time.
const LIVE_MS: u64 = 30_000;
/// So many fragments are there when a replay begins: what players want before they play.
const REPLAY_FRAGMENTS: usize = 3;

/// How a protocol names what it is asked for.
struct Protocol {
    selector: &'static str,
    count: &'static str,
    url: &'static str,
    /// Of what is live, and of what was.
    files: (&'static str, &'static str),
}

const HLS: Protocol = Protocol {
    selector: "HLSFragmentSelector",
    count: "MaxMediaPlaylistFragmentResults",
    url: "HLSStreamingSessionURL",
    files: ("live.m3u8", "vod.m3u8"),
};

const DASH: Protocol = Protocol {
    selector: "DASHFragmentSelector",
    count: "MaxManifestFragmentResults",
    url: "DASHStreamingSessionURL",
    files: ("manifest.mpd", "manifest.mpd"),
};

impl Protocol {
    /// Where the times of a list begin that goes on; a manifest says that itself.
    fn base(&self, since: UnixMs) -> String {
        if self.url == HLS.url { format!("base={}&", base_s(since)) } else { String::new() }
    }
}

fn nothing() -> Refusal {
    refusal("ResourceNotFoundException", "No fragments were found in the stream for the request.")
}

impl Call {
    pub(super) async fn hls_session(&self) -> Result<Response<Body>> {
        self.choice("ContainerFormat", &["FRAGMENTED_MP4"])?;
        self.choice("DiscontinuityMode", &["ALWAYS", "NEVER", "ON_DISCONTINUITY"])?;
        self.choice("DisplayFragmentTimestamp", &["ALWAYS", "NEVER"])?;
        self.session(&HLS, "").await
    }

    pub(super) async fn dash_session(&self) -> Result<Response<Body>> {
        let by_server =
            self.body.get(DASH.selector).and_then(|selector| selector.get("FragmentSelectorType"));
        let by_server = by_server.is_none_or(|kind| kind == "SERVER_TIMESTAMP");
        let mut shown = Vec::new();
        if self.choice("DisplayFragmentTimestamp", &["ALWAYS", "NEVER"])? == Some("ALWAYS") {
            shown.push(if by_server { "server" } else { "producer" });
        }
        if self.choice("DisplayFragmentNumber", &["ALWAYS", "NEVER"])? == Some("ALWAYS") {
            shown.push("number");
        }
        let show = if shown.is_empty() { String::new() } else { format!("show={}&", shown.join(",")) };
        self.session(&DASH, &show).await
    }

    fn choice(&self, name: &str, valid: &[&str]) -> Result<Option<&str>> {
        let Some(text) = self.text(name) else { return Ok(None) };
        if valid.contains(&text) {
            return Ok(Some(text));
        }
        Err(invalid(format!("{name} is {text}: {} is valid here", valid.join(" or "))))
    }

    async fn session(&self, protocol: &Protocol, show: &str) -> Result<Response<Body>> {
        let stream = self.find()?.name;
        let expires_s = self.number("Expires", EXPIRES.1, EXPIRES.2)?.unwrap_or(EXPIRES.0) as u64;
        let count = self.number(protocol.count, 1, FRAGMENTS_MAX)?;
        let selector = self.body.get(protocol.selector);
        let window = count.unwrap_or(FRAGMENTS_DEFAULT.0).max(2);
        let query = match self.text("PlaybackMode").unwrap_or("LIVE") {
            "LIVE" => {
                Span::read(selector, false)?;
                let since = self.is_live(&stream).await?;
                format!("{}?window={window}&{}", protocol.files.0, protocol.base(since))
            }
            "LIVE_REPLAY" => {
                let span = Span::read(selector, false)?;
                let (since, replay) = self.replay(&stream, &span).await?;
                format!("{}?window={window}&{replay}{}", protocol.files.0, protocol.base(since))
            }
            "ON_DEMAND" => {
                let span = Span::read(selector, true)?;
                let (all, _) = self.within_span(&stream, &span, None, 1).await?;
                let first = all.first().ok_or_else(nothing)?;
                let to = span.to.map_or(0, |to| to.0 + 1);
                let count = count.unwrap_or(FRAGMENTS_DEFAULT.1);
                let (file, clock) = (protocol.files.1, clock(&span));
                format!("{file}?from={}&to={clock}:{to}&count={count}&", first.number())
            }
            other => {
                return Err(invalid(format!(
                    "PlaybackMode is {other}: LIVE, LIVE_REPLAY and ON_DEMAND are valid"
                )));
            }
        };
        let token = crate::api::video::token(&self.shared, &self.caller.access_key, &stream, expires_s);
        let token = token.ok_or_else(|| refusal("NotAuthorizedException", "the access key is gone"))?;
        let url = format!("{}/v1/video/{stream}/{query}{show}token={token}", self.endpoint);
        Ok(as_json(&json!({ protocol.url: url })))
    }

    /// When the first of what came lately was filmed.
    async fn is_live(&self, stream: &StreamName) -> Result<UnixMs> {
        let since = UnixMs(self.shared.clock.wall().0.saturating_sub(LIVE_MS));
        let service = &self.shared.service;
        let at = service.video_place(&self.caller.principal, stream, At::ServerTime(since)).await?;
        let (some, _) = service.fragments(&self.caller.principal, stream, at, 1).await?;
        some.first().map(|first| first.fragment.producer_time).ok_or_else(nothing)
    }

    /// What is replayed comes as late as it would if it were filmed now; and when the first of it was.
    async fn replay(&self, stream: &StreamName, span: &Span) -> Result<(UnixMs, String)> {
        if span.from.is_none() {
            return Err(invalid("TimestampRange: a StartTimestamp is needed for LIVE_REPLAY"));
        }
        let (mut all, _) = self.within_span(stream, span, None, REPLAY_FRAGMENTS + 1).await?;
        let first = all.first().map(|first| (first.producer_time(), first.number()));
        let (since, first) = first.ok_or_else(nothing)?;
        let now = self.shared.clock.wall().0;
        // It is the time at which the one after these came, or was begun.
        let until = all.drain(..).nth(REPLAY_FRAGMENTS).map_or(now, |next| match span.by_server {
            true => next.first().arrival.0,
            false => next.producer_time().0,
        });
        let (clock, late) = (clock(span), now.saturating_sub(until));
        let to = span.to.map(|to| format!("&to={clock}:{}", to.0 + 1)).unwrap_or_default();
        Ok((since, format!("from={first}&replay={clock}:{late}{to}&")))
    }
}

fn clock(span: &Span) -> &'static str {
    if span.by_server { "server" } else { "producer" }
}
