//! The threads on which those are served who only read and command: of a lower priority to the scheduler than the others,
//! so that a crowd of readers takes what producers leave over, and the whole machine where there is no producer. What
//! comes in exists nowhere else; what is read can be read later. Never: who is a reader, what is read.

use std::future::Future;
use std::io;

use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;

/// The nice value (nice(7)) of these threads: beside one of 0 they get about a tenth of a core.
const NICE: i32 = 10;

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
    /// When the system has no more threads.
    pub(crate) fn start() -> io::Result<Readers> {
        let runtime = Builder::new_multi_thread()
            .thread_name("readers")
            // A system that refuses leaves them as they are: that costs producers speed and nobody data.
            .on_thread_start(|| {
                let _ = rustix::process::setpriority_process(None, NICE);
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
        let nice = readers.run(async { rustix::process::getpriority_process(None) }).await;
        assert!(nice.unwrap().unwrap() >= NICE);
        assert!(rustix::process::getpriority_process(None).unwrap() < NICE, "and nobody else does");
        assert_eq!(readers.run(async { assert!(std::env::args().count() == 0) }).await, None);
        assert_eq!(readers.run(async { 7 }).await, Some(7));
    }
}
