//! Feeds the decoder `video_film`. What it does with the bytes is in `tests/src/decoders.rs`; called by its name, so that no
//! other decoder is linked, whose counters would have to be looked through after every input.

#![no_main]

/// The `mp4` crate panics over some tables that are wrong. Whoever reads a film catches that: it is no finding.
fn let_mp4_panic() {
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !panic.location().is_some_and(|at| at.file().contains("/mp4-0.")) {
            tell(panic);
        }
    }));
}

libfuzzer_sys::fuzz_target!(init: let_mp4_panic(), |bytes: &[u8]| tests::decoders::video_film(bytes));
