//! What a connection hears without asking: that a stream it named has changed, that the store ends. Never: the
//! connection's own bytes.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use protocol::name::StreamName;
use protocol::native::call::StreamInfo;
use tokio::sync::{broadcast, mpsc, watch};

use crate::api::Shared;
use crate::principal::{Principal, Role};

/// How much news waits for a connection that is busy.
const NEWS_MAX: usize = 16;
/// A connection names at most this many streams; it hears nothing of more.
const NAMED_MAX: usize = 100_000;

/// The streams that a connection has named.
#[derive(Debug, Clone, Default)]
pub(crate) struct Named(Arc<Mutex<HashSet<StreamName>>>);

impl Named {
    pub(crate) fn add(&self, names: impl IntoIterator<Item = StreamName>) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for name in names {
            if known.len() < NAMED_MAX {
                known.insert(name);
            }
        }
    }

    fn has(&self, name: &StreamName) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(name)
    }

    fn all(&self) -> Vec<StreamName> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}

/// News for a connection.
#[derive(Debug)]
pub(crate) enum Control {
    Changed(Box<StreamInfo>),
    Stop,
}

/// Starts to listen for a connection; ends when the connection drops the receiver.
pub(crate) fn start(
    shared: &Arc<Shared>,
    changes: broadcast::Receiver<StreamInfo>,
    principal: &Principal,
    named: &Named,
    stopped: watch::Receiver<bool>,
) -> mpsc::Receiver<Control> {
    let (shared, principal) = (shared.clone(), principal.clone());
    let hears = principal.role != Role::Anonymous;
    let known = move |name: &StreamName| shared.service.known_stream(&principal, name);
    let (to, control) = mpsc::channel(NEWS_MAX);
    tokio::spawn(Herald { known, hears, named: named.clone(), to }.run(changes, stopped));
    control
}

struct Herald<Known> {
    /// How a stream is now.
    known: Known,
    hears: bool,
    named: Named,
    to: mpsc::Sender<Control>,
}

impl<Known: Fn(&StreamName) -> Option<StreamInfo>> Herald<Known> {
    async fn run(mut self, mut changes: broadcast::Receiver<StreamInfo>, mut stopped: watch::Receiver<bool>) {
        let closed = self.to.clone();
        loop {
            tokio::select! {
                change = changes.recv(), if self.hears => self.hears = self.on_change(change).await,
                () = stop_of(&mut stopped) => {
                    let _ = self.to.send(Control::Stop).await;
                    return;
                }
                () = closed.closed() => return,
            }
        }
    }

    async fn on_change(&self, change: Result<StreamInfo, broadcast::error::RecvError>) -> bool {
        match change {
            Ok(info) => {
                if self.named.has(&info.name) {
                    let _ = self.to.send(Control::Changed(Box::new(info))).await;
                }
                true
            }
            Err(broadcast::error::RecvError::Lagged(_)) => {
                self.tell_all().await;
                true
            }
            Err(broadcast::error::RecvError::Closed) => false,
        }
    }

    /// Some news was missed: tells how everything is now.
    async fn tell_all(&self) {
        for name in self.named.all() {
            if let Some(info) = (self.known)(&name) {
                let _ = self.to.send(Control::Changed(Box::new(info))).await;
            }
        }
    }
}

/// Until the store was told to end.
async fn stop_of(stopped: &mut watch::Receiver<bool>) {
    let _ = stopped.wait_for(|stop| *stop).await;
}

#[cfg(test)]
mod tests {
    use protocol::stream::StreamConfig;
    use protocol::time::UnixMs;

    use super::*;

    /// Reaches `NEWS_MAX`.
    #[tokio::test]
    async fn as_much_news_waits_for_a_busy_connection_as_may_and_what_it_missed_it_hears_as_it_is_then() {
        let name = StreamName::new("s").unwrap();
        let named = Named::default();
        named.add([name.clone()]);
        let info = |map_version: u64| StreamInfo {
            name: name.clone(),
            key: name.key(),
            created: UnixMs(0),
            config: StreamConfig::default(),
            map_version,
            shards: Vec::new(),
            stored_bytes: 0,
            resharded: Vec::new(),
        };
        let (to, mut control) = mpsc::channel(NEWS_MAX);
        // One that can hold less than what waits: it misses some.
        let (changes, heard) = broadcast::channel(4);
        let (_stop, stopped) = watch::channel(false);
        let newest = 3 * NEWS_MAX as u64;
        let now = info(newest);
        let known = move |_: &StreamName| Some(now.clone());
        tokio::spawn(Herald { known, hears: true, named, to }.run(heard, stopped));
        for version in 1..=newest {
            changes.send(info(version)).unwrap();
            for _ in 0..4 {
                tokio::task::yield_now().await;
            }
            assert!(control.len() <= NEWS_MAX);
        }
        assert_eq!(control.len(), NEWS_MAX);
        let mut last = 0;
        while last < newest {
            let Some(Control::Changed(info)) = control.recv().await else { panic!("it ended") };
            last = info.map_version;
        }
    }

    /// Reaches `NAMED_MAX`.
    #[test]
    fn a_connection_names_as_many_streams_as_it_may_and_hears_nothing_of_more() {
        let name = |n: usize| StreamName::new(&n.to_string()).unwrap();
        let named = Named::default();
        named.add((0..=NAMED_MAX).map(name));
        assert_eq!(named.all().len(), NAMED_MAX);
        assert!(named.has(&name(NAMED_MAX - 1)) && !named.has(&name(NAMED_MAX)));
    }
}
