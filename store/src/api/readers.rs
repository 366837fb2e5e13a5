//! The threads on which those are served who only read and command: of a lower priority to the scheduler than the others,
//! so that a crowd of readers takes what producers leave over, and the whole machine where there is no producer. What
//! comes in exists nowhere else; what is read can be read later. Never: who is a reader, what is read.

use std::future::Future;
use std::io;

use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;

/// How much nicer (sched(7)) these threads are than the others: they get about a tenth of a core that others want.
const NICER: i32 = 10;
/// The nicest there is.
const NICEST: i32 = 19;

/// A runtime of threads that give way.
#[derive(Debug)]
pub(crate) struct Readers {
    /// Taken when this is dropped, which may be within another runtime.
    runtime: Option<Runtime>,
}

impl Readers {
    /// Starts the threads.
    ///
    /// # Errors
    /// When the system has no more threads, or does not say how nice this one is.
    pub(crate) fn start() -> io::Result<Readers> {
        // Of the process, which may be nice itself: threads inherit it from whichever starts them.
        let nice = (rustix::process::getpriority_process(None)? + NICER).min(NICEST);
        let runtime = Builder::new_multi_thread()
            .thread_name("readers")
            // A system that refuses leaves them as they are: that costs producers speed and nobody data.
            .on_thread_start(move || {
                let _ = rustix::process::setpriority_process(None, nice);
            })
            .enable_all()
            .build()?;
        Ok(Readers { runtime: Some(runtime) })
    }

    /// Runs it to its end there, or until this is dropped. Nothing where it panicked.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        // A set, since it ends what is in it when it is dropped.
        let mut only = JoinSet::new();
        only.spawn_on(work, self.runtime.as_ref()?.handle());
        only.join_next().await?.ok()
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_served_there_gives_way_and_a_panic_is_its_own() {
        let readers = Readers::start().unwrap();
        let own = rustix::process::getpriority_process(None).unwrap();
        let nice = readers.run(async { rustix::process::getpriority_process(None) }).await;
        assert_eq!(nice.unwrap().unwrap(), (own + NICER).min(NICEST));
        let elsewhere = tokio::task::spawn_blocking(|| rustix::process::getpriority_process(None)).await;
        assert_eq!(elsewhere.unwrap().unwrap(), own, "nobody else does");
        assert_eq!(readers.run(async { assert!(std::env::args().count() == 0) }).await, None);
        assert_eq!(readers.run(async { 7 }).await, Some(7));
    }
}
