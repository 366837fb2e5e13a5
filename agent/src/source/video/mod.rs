//! Cameras as a source: by RTSP, what a command writes, and films that appear in a folder, as fragments whose frames are records.
//! Each source has a thread of its own, and so has what looks for events. Never: what a fragment is (`video` knows), how it is kept and sent.

mod command;
pub(crate) mod event;
mod feed;
mod folder;
#[cfg(feature = "rtsp")]
mod rtsp;

use std::sync::Arc;

use protocol::name::StreamName;

use crate::clock::Clock;
use crate::config::VideoSource as Settings;
use crate::hub::Hub;
use crate::log::Log;

pub use folder::is_cursor;
#[cfg(feature = "rtsp")]
pub use rtsp::camera_said;

/// What a source's thread has.
pub(crate) struct Parts {
    /// Its place among the message sources.
    pub(crate) source: usize,
    pub(crate) settings: Settings,
    pub(crate) stream: StreamName,
    pub(crate) hub: Arc<Hub>,
    pub(crate) log: Log,
    pub(crate) clock: Clock,
    /// What the spool remembers of the films of this source: cursors by their ids.
    pub(crate) cursors: Vec<(String, String)>,
}

/// Works until the agent ends.
pub(crate) fn run(parts: Parts) {
    #[cfg(feature = "rtsp")]
    if let Some(url) = &parts.settings.rtsp {
        return rtsp::run(&parts, url);
    }
    if parts.settings.folder.is_some() {
        folder::run(parts);
    } else {
        command::run(&parts);
    }
}
